"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL, tiny, with Qwen's own vocabulary and ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tests.tiny_models.vocabularies import qwen_tokenizer

GENERATIONS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "pad_token_id": 151643,
    "initializer_range": 0.3,
    "tie_word_embeddings": True,
}


def build(folder: Path, generation: str = "qwen2_vl", seed: int = 4, head: int = 8) -> Path:
    """Save the model and its processor; return the folder. Pictures are kept small: 64 to 400 patches.

    `head`: numbers of an attention head of the decoder, a multiple of 8.
    """
    torch.manual_seed(seed)
    tokenizer = qwen_tokenizer()
    width = _TEXT["num_attention_heads"] * head
    text = _TEXT | {"vocab_size": len(tokenizer), "hidden_size": width}
    sections = [head // 8, head // 8, head // 4]
    if generation == "qwen3_vl":
        pixels = {"shortest_edge": 4 * 32 * 32, "longest_edge": 64 * 32 * 32}
        image_processor = Qwen2VLImageProcessor(size=pixels, patch_size=16, merge_size=2)
        video_processor: Any = Qwen3VLVideoProcessor(size={"shortest_edge": 8 * 32 * 32, "longest_edge": 64 * 32 * 32})
    else:
        pixels = {"shortest_edge": 4 * 28 * 28, "longest_edge": 64 * 28 * 28}
        image_processor = Qwen2VLImageProcessor(size=pixels)
        video_processor = Qwen2VLVideoProcessor(size={"shortest_edge": 4 * 28 * 28, "longest_edge": 16 * 28 * 28})
    match generation:
        case "qwen2_vl":
            config: Any = Qwen2VLConfig(
                vision_config={"depth": 2, "embed_dim": 32, "hidden_size": width, "num_heads": 2, "mlp_ratio": 2},
                text_config=text | {"rope_parameters": {"rope_type": "default", "mrope_section": sections}},
                tie_word_embeddings=True,
            )
            model: Any = Qwen2VLForConditionalGeneration(config)
            make_processor: Any = Qwen2VLProcessor
        case "qwen2_5_vl":
            config = Qwen2_5_VLConfig(
                vision_config={
                    "depth": 2,
                    "hidden_size": 32,
                    "out_hidden_size": width,
                    "intermediate_size": 64,
                    "num_heads": 2,
                    "window_size": 56,
                    "fullatt_block_indexes": [1],
                },
                text_config=text | {"rope_parameters": {"rope_type": "default", "mrope_section": sections}},
                tie_word_embeddings=True,
            )
            model = Qwen2_5_VLForConditionalGeneration(config)
            make_processor = Qwen2_5_VLProcessor
        case _:
            config = Qwen3VLConfig(
                vision_config={
                    "depth": 2,
                    "hidden_size": 32,
                    "out_hidden_size": width,
                    "intermediate_size": 64,
                    "num_heads": 2,
                    "num_position_embeddings": 64,
                    "deepstack_visual_indexes": [0, 1],
                },
                text_config=text
                | {"head_dim": head, "rope_parameters": {"rope_type": "default", "mrope_section": sections[::-1]}},
                tie_word_embeddings=True,
            )
            model = Qwen3VLForConditionalGeneration(config)
            make_processor = Qwen3VLProcessor
    processor = make_processor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        video_processor=video_processor,
        chat_template=TEMPLATE,
    )
    model.generation_config.eos_token_id = [151645, 151643]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
