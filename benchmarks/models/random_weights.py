"""Local models with random weights in the shapes of the published ones, or shrunken, behind their own adapters.

The shapes are those of the configs that the vendors publish with Florence-2-base and large, Qwen2-VL-2B and 7B
Instruct, and llava-v1.6-mistral-7b. Tokenizers are made on the spot: what a token says is of no account where its cost
is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import transformers

from sightflow.blocks.models.engines.transformers.device import resolve_device
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.systems.florence2 import Florence2
from sightflow.blocks.models.systems.llava_next import LlavaNext
from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.infra.demo.small_florence2 import build_tokenizer
from tests.tiny_models import llava_next, qwen_vl
from tests.tiny_models.vocabularies import llama_tokenizer, qwen_tokenizer

Model = TypeVar("Model", bound=OpenWeightsModel)

_QWEN_IDS = {"bos_token_id": 151643, "eos_token_id": 151645, "pad_token_id": 151643}
_QWEN_TEXT: dict[str, dict[str, Any]] = {
    "2b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
           "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    "small": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8,
              "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
}  # fmt: skip
_QWEN_SIGHT: dict[str, dict[str, Any]] = {
    "2b": {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4},
    "7b": {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4},
    "small": {"depth": 4, "embed_dim": 128, "num_heads": 4, "mlp_ratio": 4},
    "tiny": {"depth": 1, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2},
}
_PINPOINTS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
_LLAVA: dict[str, dict[str, Any]] = {
    "7b": {
        "text": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                 "num_key_value_heads": 8, "vocab_size": 32064, "max_position_embeddings": 32768,
                 "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "sliding_window": None},
        "sight": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
                  "image_size": 336, "patch_size": 14, "projection_dim": 768},
    },
    "tiny": {
        "text": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "num_key_value_heads": 2, "vocab_size": 32064, "sliding_window": None},
        "sight": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                  "image_size": 56, "patch_size": 14, "projection_dim": 32},
    },
}  # fmt: skip
_FLORENCE: dict[str, dict[str, Any]] = {
    "large": {
        "text": {"d_model": 1024, "encoder_layers": 12, "decoder_layers": 12, "encoder_attention_heads": 16,
                 "decoder_attention_heads": 16, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096,
                 "max_position_embeddings": 4096, "vocab_size": 51290},
        "sight": {"depths": [1, 1, 9, 1], "embed_dim": [256, 512, 1024, 2048], "num_heads": [8, 16, 32, 64],
                  "num_groups": [8, 16, 32, 64], "projection_dim": 1024},
        "side": 768,
    },
    "base": {
        "text": {"d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 12,
                 "decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072,
                 "max_position_embeddings": 4096, "vocab_size": 51290},
        "sight": {"depths": [1, 1, 9, 1], "embed_dim": [128, 256, 512, 1024], "num_heads": [4, 8, 16, 32],
                  "num_groups": [4, 8, 16, 32], "projection_dim": 768},
        "side": 768,
    },
    "tiny": {
        "text": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
                 "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
                 "max_position_embeddings": 256, "vocab_size": 1200},
        "sight": {"depths": [1, 1, 1, 1], "embed_dim": [8, 16, 24, 32], "num_heads": [1, 2, 2, 2],
                  "num_groups": [1, 2, 2, 2], "window_size": 4, "projection_dim": 32},
        "side": 128,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """One model to measure: `load(device, tiny)` gives its adapter, ready to run, with a seed of its own."""

    name: str
    load: Callable[..., OpenWeightsModel]


def qwen2_vl(
    device: str, tiny: bool = False, size: str = "2b", pixels: int = 1280 * 28 * 28, **changes: Any
) -> Qwen2VL:
    """A Qwen2-VL that sees at most so many pixels of a picture."""
    size = "tiny" if tiny else size
    text, tokenizer = _QWEN_TEXT[size], qwen_tokenizer()
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    sections = [half // 4, 3 * half // 8, half - half // 4 - 3 * half // 8]
    rotary = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    config = transformers.Qwen2VLConfig(
        vision_config=_QWEN_SIGHT[size] | {"hidden_size": text["hidden_size"]},
        text_config=text | _QWEN_IDS | {"rope_parameters": rotary},
        tie_word_embeddings=text["tie_word_embeddings"],
    )
    budget = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16 * 28 * 28 if tiny else pixels}
    processor = transformers.Qwen2VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(size=budget),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(size=budget),
        chat_template=qwen_vl.TEMPLATE,
    )
    adapter = Qwen2VL(generation="qwen2_vl", device=device, **changes)
    return _ready(adapter, transformers.Qwen2VLForConditionalGeneration, config, processor)


def llava(device: str, tiny: bool = False, **changes: Any) -> LlavaNext:
    """A LLaVA-NeXT with Mistral's shape."""
    shape, tokenizer = _LLAVA["tiny" if tiny else "7b"], llama_tokenizer("<image>")
    side = shape["sight"]["image_size"]
    pinpoints = [[side * down, side * across] for down, across in _PINPOINTS]
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**shape["sight"]),
        text_config=transformers.MistralConfig(**shape["text"], **ids),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        image_seq_length=(side // 14) ** 2,
    )
    processor = transformers.LlavaNextProcessor(
        image_processor=transformers.LlavaNextImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_grid_pinpoints=pinpoints
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=llava_next.TEMPLATE,
    )
    adapter = LlavaNext(device=device, **changes)
    return _ready(adapter, transformers.LlavaNextForConditionalGeneration, config, processor)


def florence2(device: str, tiny: bool = False, size: str = "large", **changes: Any) -> Florence2:
    """A Florence-2 of the size `base` or `large`; the demo's vocabulary of words, among as many tokens as the published
    one has.
    """
    shape, tokenizer = _FLORENCE["tiny" if tiny else size], build_tokenizer()
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    starts = {"decoder_start_token_id": tokenizer.eos_token_id, "forced_eos_token_id": None}
    config = transformers.Florence2Config(
        text_config=transformers.BartConfig(**shape["text"], **ids, **starts).to_dict(),
        vision_config=shape["sight"] | {"drop_path_rate": 0.0},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        **ids,
    )
    images = transformers.CLIPImageProcessor(
        size={"height": shape["side"], "width": shape["side"]}, do_center_crop=False, resample=3
    )
    images.image_seq_length = (shape["side"] // 32) ** 2 + 1
    processor = transformers.Florence2Processor(image_processor=images, tokenizer=tokenizer, post_processor_config={})
    adapter = Florence2(device=device, **changes)
    model = _ready(adapter, transformers.Florence2ForConditionalGeneration, config, processor)
    model.open_engine().weights.model.generation_config.update(**ids, **starts)
    return model


SHAPES = (
    Shape("florence-2-large", florence2),
    Shape("qwen2-vl-2b", partial(qwen2_vl, size="2b")),
    Shape("qwen2-vl-7b", partial(qwen2_vl, size="7b")),
    Shape("llava-next-7b", llava),
)


def _ready(adapter: Model, model_class: Any, config: Any, processor: Any) -> Model:
    """The adapter as `prepare` would leave it, with weights drawn on the device itself."""
    device = resolve_device(adapter.device)
    torch.manual_seed(5)
    with torch.device(device):
        model = model_class._from_config(config, dtype=torch.bfloat16 if device.startswith("cuda") else torch.float32)
    adapter.open_engine().adopt(model.to(device).eval(), processor)  # type: ignore[attr-defined]
    return adapter
