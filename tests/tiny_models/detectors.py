"""Detectors, tiny, with random weights: three that are asked by text, three that know labels of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.tiny_models.vocabularies import bert_tokenizer

WORDS = ("red", "box", "person", "dog", "traffic", "light", "a", "detect", ",")
LABELS = ("person", "traffic light", "dog", "N/A", "red box")


def build(folder: Path, family: str, seed: int = 5) -> Path:
    """Save the model of a family and its processor; return the folder."""
    torch.manual_seed(seed)
    model, processor = BUILD[family]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def clip_tokenizer(longest: int) -> Any:
    """A closed list of words between a first and a last token, as CLIP's; padded with 0."""
    vocabulary = ["<pad>", "<start>", "<end>", "<unk>", *WORDS, *"bcefghijklmnopqrstuvwxyz"]
    ids = {token: i for i, token in enumerate(vocabulary)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<pad>",
        model_max_length=longest,
    )


def _swin() -> Any:
    return hf.SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_size=4,
        out_indices=[2, 3, 4],
    )


def _grounding(config_class: Any, model_class: Any) -> tuple[Any, Any]:
    tokenizer = bert_tokenizer(WORDS)
    config = config_class(
        backbone_config=_swin(),
        text_config=hf.BertConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        ),
        d_model=32,
        num_queries=30,
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=32,
        decoder_attention_heads=2,
        disable_custom_kernels=True,
        init_std=0.3,
    )
    images = hf.GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    return model_class(config), hf.GroundingDinoProcessor(images, tokenizer)


def _owlv2() -> tuple[Any, Any]:
    tokenizer = clip_tokenizer(16)
    config = hf.Owlv2Config(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 96, "patch_size": 16,
        },
        projection_dim=16,
        initializer_factor=1.0,
    )  # fmt: skip
    images = hf.Owlv2ImageProcessor(size={"height": 96, "width": 96})
    model = hf.Owlv2ForObjectDetection(config)
    with torch.no_grad():  # boxes near their own cell, as those of trained weights are
        model.box_head.dense2.weight.mul_(0.02)
        model.box_head.dense2.bias[2:] = -1.5
    return model, hf.Owlv2Processor(images, tokenizer)


def _omdet() -> tuple[Any, Any]:
    tokenizer = clip_tokenizer(77)
    config = hf.OmDetTurboConfig(
        backbone_config=_swin(),
        text_config=hf.CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            projection_dim=32, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_factor=3.0,
        ),
        image_size=96,
        apply_layernorm_after_vision_backbone=False,
        text_projection_in_dim=32,
        text_projection_out_dim=32,
        task_encoder_hidden_dim=32,
        class_embed_dim=32,
        num_queries=30,
        encoder_hidden_dim=16,
        decoder_hidden_dim=16,
        vision_features_channels=[16, 16, 16],
        encoder_in_channels=[16, 32, 64],
        encoder_attention_heads=2,
        decoder_num_heads=2,
        encoder_dim_feedforward=32,
        decoder_dim_feedforward=32,
        decoder_num_layers=1,
        init_std=0.3,
        disable_custom_kernels=True,
    )  # fmt: skip
    images = hf.DetrImageProcessor(size={"height": 96, "width": 96}, do_pad=False)
    return hf.OmDetTurboForObjectDetection(config), hf.OmDetTurboProcessor(images, tokenizer)


def _names() -> dict[str, Any]:
    return {"id2label": dict(enumerate(LABELS)), "label2id": {label: k for k, label in enumerate(LABELS)}}


def _rf_detr() -> tuple[Any, Any]:
    config = hf.RfDetrConfig(
        backbone_config={
            "model_type": "rf_detr_dinov2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 16, "num_windows": 2, "out_indices": [1, 2],
        },
        d_model=16, num_queries=10, decoder_layers=1, decoder_ffn_dim=32, decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2, group_detr=1, intermediate_size=32, init_std=0.3, **_names(),
    )  # fmt: skip
    images = hf.RfDetrImageProcessor(size={"height": 64, "width": 64}, do_pad=False)
    return hf.RfDetrForObjectDetection(config), images


def _decoder() -> dict[str, Any]:
    return {
        "encoder_hidden_dim": 16, "encoder_in_channels": [16, 16, 16], "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2, "d_model": 16, "num_queries": 20, "decoder_in_channels": [16, 16, 16],
        "decoder_ffn_dim": 32,
        "decoder_layers": 2, "decoder_attention_heads": 2, "num_denoising": 0, "initializer_range": 0.3,
    }  # fmt: skip


def _d_fine() -> tuple[Any, Any]:
    backbone = hf.HGNetV2Config(
        embedding_size=16, hidden_sizes=[16, 16, 16, 16], depths=[1, 1, 1, 1], stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16, 16, 16], stage_mid_channels=[8, 8, 8, 8], stage_out_channels=[16, 16, 16, 16],
        stage_num_blocks=[1, 1, 1, 1], stage_downsample=[False, True, True, True], stage_light_block=[False] * 4,
        stage_kernel_size=[3, 3, 3, 3], stage_numb_of_layers=[1, 1, 1, 1], out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = hf.DFineConfig(backbone_config=backbone, **_decoder(), **_names())
    return hf.DFineForObjectDetection(config), hf.RTDetrImageProcessor(size={"height": 96, "width": 96})


def _rt_detr_v2() -> tuple[Any, Any]:
    backbone = hf.RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = hf.RTDetrV2Config(backbone_config=backbone, **_decoder(), **_names())
    return hf.RTDetrV2ForObjectDetection(config), hf.RTDetrImageProcessor(size={"height": 96, "width": 96})


ZERO_SHOT: dict[str, Callable[[], tuple[Any, Any]]] = {
    "grounding-dino": lambda: _grounding(hf.GroundingDinoConfig, hf.GroundingDinoForObjectDetection),
    "mm-grounding-dino": lambda: _grounding(hf.MMGroundingDinoConfig, hf.MMGroundingDinoForObjectDetection),
    "owlv2": _owlv2,
    "omdet-turbo": _omdet,
}
CLOSED_SET: dict[str, Callable[[], tuple[Any, Any]]] = {
    "rf_detr": _rf_detr,
    "d_fine": _d_fine,
    "rt_detr_v2": _rt_detr_v2,
}
BUILD = ZERO_SHOT | CLOSED_SET
