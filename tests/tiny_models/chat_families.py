"""Families that `chat` serves, tiny, with random weights: SmolVLM, Gemma 3, InternVL, LLaVA-OneVision, Molmo2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.tiny_models import qwen_vl
from tests.tiny_models.vocabularies import llama_tokenizer

_TEMPLATE = (
    "{{% for message in messages %}}{{{{ message['role'] }}}}: "
    "{{% for part in message['content'] %}}{{% if part['type'] == 'image' %}}{image}"
    "{{% elif part['type'] == 'video' %}}{video}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}\n"
    "{{% endfor %}}{{% if add_generation_prompt %}}assistant:{{% endif %}}"
)


def _template(image: str, video: str = "") -> str:
    return _TEMPLATE.format(image=image, video=video)


def _text(tokenizer: Any, **changes: Any) -> dict[str, Any]:
    """A language model of two layers."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.3,
    } | changes


def _vision(side: int, patch: int, **changes: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": patch,
    } | changes


def _saved(folder: Path, model: Any, processor: Any) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def smolvlm(folder: Path) -> Path:
    """Tiles of 32 pixels, of which four patches are a token."""
    torch.manual_seed(11)
    tokenizer = llama_tokenizer(
        "<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
        *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
    )  # fmt: skip
    tile = {"longest_edge": 32}
    processor = transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size=tile),
        video_processor=transformers.SmolVLMVideoProcessor(size=tile, max_image_size=tile),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=_template("<image>", "<video>"),
    )
    config = transformers.SmolVLMConfig(
        vision_config=_vision(32, 8, initializer_range=0.3),
        text_config={"model_type": "llama"} | _text(tokenizer),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return _saved(folder, transformers.SmolVLMForConditionalGeneration(config), processor)


def gemma3(folder: Path) -> Path:
    """Pictures squeezed into 28 x 28 pixels, four tokens each."""
    torch.manual_seed(12)
    tokenizer = llama_tokenizer("<image_soft_token>", "<start_of_image>", "<end_of_image>")
    tokenizer.init_kwargs |= (
        marks := {
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        }
    )
    tokenizer._set_model_specific_special_tokens(marks)
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessor(size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template="<s>" + _template("<start_of_image>"),
    )
    config = transformers.Gemma3Config(
        vision_config=_vision(28, 7),
        text_config=_text(tokenizer, head_dim=12, sliding_window=16, tie_word_embeddings=False),
        tie_word_embeddings=False,
        mm_tokens_per_image=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    projector: Any = model.model.multi_modal_projector
    torch.nn.init.normal_(projector.mm_input_projection_weight, std=0.3)  # zeros at first, which see nothing
    return _saved(folder, model, processor)


def internvl(folder: Path) -> Path:
    """Tiles of 28 pixels, four tokens each."""
    torch.manual_seed(13)
    marks = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = llama_tokenizer(*marks.values())
    tokenizer.init_kwargs |= marks
    tokenizer._set_model_specific_special_tokens(marks)
    tile = {"height": 28, "width": 28}
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size=tile, max_patches=4),
        video_processor=transformers.InternVLVideoProcessor(size=tile),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=_template("<IMG_CONTEXT>\n", "<video>\n"),
    )
    config = transformers.InternVLConfig(
        vision_config=_vision(28, 7, initializer_range=0.3),
        text_config={"model_type": "qwen2"} | _text(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return _saved(folder, transformers.InternVLForConditionalGeneration(config), processor)


def llava_onevision(folder: Path) -> Path:
    """Tiles of 28 pixels, sixteen patches each."""
    torch.manual_seed(14)
    tokenizer = llama_tokenizer("<image>", "<video>")
    pinpoints = [[28, 28], [28, 56], [56, 28], [56, 56]]
    size = {"height": 28, "width": 28}
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints),
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size),
        tokenizer=tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=_template("<image>\n", "<video>\n"),
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model"} | _vision(28, 7, vision_use_head=False),
        text_config={"model_type": "qwen2"} | _text(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    return _saved(folder, transformers.LlavaOnevisionForConditionalGeneration(config), processor)


def molmo2(folder: Path) -> Path:
    """Crops of 56 pixels with patches of 14."""
    torch.manual_seed(15)
    marks = [
        "<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>", "<frame_start>", "<frame_end>",
        "<im_low>", "<|image|>", "<|video|>",
    ]  # fmt: skip
    tokenizer = llama_tokenizer(*marks)
    size = {"height": 56, "width": 56}
    processor = transformers.Molmo2Processor(
        image_processor=transformers.Molmo2ImageProcessor(
            size=size, patch_size=14, max_crops=2, overlap_margins=[1, 1]
        ),
        video_processor=transformers.Molmo2VideoProcessor(size=size, patch_size=14, pooling_size=[2, 2]),
        tokenizer=tokenizer,
        chat_template=_template("<|image|>", "<|video|>"),
    )
    ids = dict(zip(marks, tokenizer.convert_tokens_to_ids(marks), strict=True))
    heads = {"num_key_value_heads": 2, "head_dim": 16, "num_attention_heads": 2}
    config = transformers.Molmo2Config(
        vision_config=_vision(56, 14, image_size=[56, 56], **heads),
        adapter_config={
            "hidden_size": 32,
            "text_hidden_size": 48,
            "intermediate_size": 64,
            "vision_feature_layer": [-1, -2],
            **heads,
        },
        text_config=_text(tokenizer, head_dim=12, additional_vocab_size=0),
        image_start_token_id=ids["<im_start>"],
        low_res_image_start_token_id=ids["<low_res_im_start>"],
        image_end_token_id=ids["<im_end>"],
        image_patch_id=ids["<im_patch>"],
        frame_start_token_id=ids["<frame_start>"],
        frame_end_token_id=ids["<frame_end>"],
    )
    return _saved(folder, transformers.Molmo2ForConditionalGeneration(config), processor)


def qwen3_vl(folder: Path) -> Path:
    return qwen_vl.build(folder, "qwen3_vl")


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "qwen3_vl": qwen3_vl,
    "smolvlm": smolvlm,
    "gemma3": gemma3,
    "internvl": internvl,
    "llava_onevision": llava_onevision,
    "molmo2": molmo2,
}
"""By the name that transformers has for the family."""
