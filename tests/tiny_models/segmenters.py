"""SAM 2 and SAM 3, tiny, with random weights: for images and for videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from tests.tiny_models.detectors import clip_tokenizer

_SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
_FOLLOWED = 128
"""The width of what is followed: a multiple of that of a memory, which transformers' own code fixes at 64."""
_MEMORY = {
    "num_maskmem": 2, "memory_attention_hidden_size": _FOLLOWED, "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 32, "memory_encoder_hidden_size": _FOLLOWED,
    "memory_encoder_output_channels": 64, "mask_downsampler_embed_dim": _FOLLOWED, "memory_fuser_num_layers": 1,
    "memory_fuser_embed_dim": _FOLLOWED, "memory_fuser_intermediate_dim": 32,
}  # fmt: skip


def build(folder: Path, family: str, seed: int = 7) -> Path:
    """Save the model of a family and its processor; return the folder."""
    torch.manual_seed(seed)
    model, processor = BUILD[family]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _sam2_parts(width: int = 16) -> dict[str, Any]:
    side = 64
    backbone = hf.Sam2HieraDetConfig(
        hidden_size=8, image_size=[side, side], blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2], window_size_per_stage=[4, 4, 4, 2], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4], initializer_range=0.3,
    )  # fmt: skip
    vision = hf.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=width,
        backbone_feature_sizes=[[side // 4] * 2, [side // 8] * 2, [side // 16] * 2],
    )  # fmt: skip
    return {
        "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": width, "image_size": side, "patch_size": 16, "mask_input_channels": 4},
        "mask_decoder_config": {
            "hidden_size": width, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
            "iou_head_depth": 2,
        },
        "initializer_range": 0.3,
    }  # fmt: skip


def _sam2() -> tuple[Any, Any]:
    images = hf.Sam2ImageProcessor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16})
    return hf.Sam2Model(hf.Sam2Config(**_sam2_parts())), hf.Sam2Processor(images)


def _sam2_video() -> tuple[Any, Any]:
    config = hf.Sam2VideoConfig(
        image_size=64, memory_attention_rope_feat_sizes=[4, 4], max_object_pointers_in_encoder=4,
        **_sam2_parts(_FOLLOWED), **_MEMORY,
    )  # fmt: skip
    images = hf.Sam2ImageProcessor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16})
    videos = hf.Sam2VideoVideoProcessor(size={"height": 64, "width": 64})
    model = hf.Sam2VideoModel(config)
    _see_objects_mostly(model.mask_decoder)
    return model, hf.Sam2VideoProcessor(images, videos)


def _sam3_vision(width: int = 16) -> Any:
    return hf.Sam3VisionConfig(
        backbone_config=hf.Sam3ViTConfig(
            **_SMALL, num_hidden_layers=2, image_size=56, pretrain_image_size=56, patch_size=14, window_size=2,
            global_attn_indexes=[1], initializer_range=0.3,
        ),
        fpn_hidden_size=width,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        initializer_range=0.3,
    )  # fmt: skip


def _sam3_config(words: int, width: int = 16) -> Any:
    layers = {**_SMALL, "hidden_size": width, "num_layers": 1, "initializer_range": 0.3}
    return hf.Sam3Config(
        vision_config=_sam3_vision(width),
        text_config={
            **_SMALL, "vocab_size": words, "num_hidden_layers": 1, "projection_dim": 16, "max_position_embeddings": 32,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        },
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 12},
        mask_decoder_config={"hidden_size": width, "num_attention_heads": 2, "initializer_range": 0.3},
        initializer_range=0.3,
    )  # fmt: skip


def _see_objects_mostly(decoder: Any) -> None:
    """Let what is followed be seen in most frames, and not in all, with masks that no threshold is far from."""
    with torch.no_grad():
        last = decoder.pred_obj_score_head.proj_out
        last.weight.mul_(0.1)
        last.bias.fill_(1.3)
        for head in decoder.output_hypernetworks_mlps:
            head.proj_out.weight.mul_(0.05)


def _find_small_boxes(model: Any) -> None:
    """Let boxes be small and within the image, as those of trained weights are."""
    with torch.no_grad():
        last = model.detr_decoder.box_head.layer3
        last.weight.mul_(0.05)
        last.bias[:] = torch.tensor([0.0, 0.0, -2.0, -2.0])
        model.detr_decoder.reference_points.weight.mul_(0.1)


def _sam3() -> tuple[Any, Any]:
    tokenizer = clip_tokenizer(32)
    images = hf.Sam3ImageProcessor(size={"height": 56, "width": 56}, mask_size={"height": 16, "width": 16})
    model = hf.Sam3Model(_sam3_config(len(tokenizer)))
    _find_small_boxes(model)
    return model, hf.Sam3Processor(images, tokenizer)


def _sam3_video() -> tuple[Any, Any]:
    tokenizer = clip_tokenizer(32)
    tracker = hf.Sam3TrackerVideoConfig(
        vision_config=_sam3_vision(_FOLLOWED),
        prompt_encoder_config={"hidden_size": _FOLLOWED, "image_size": 56, "patch_size": 14, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": _FOLLOWED, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
            "iou_head_depth": 2,
        },
        memory_attention_rope_feat_sizes=[4, 4], max_object_pointers_in_encoder=4, **_MEMORY,
    )  # fmt: skip
    config = hf.Sam3VideoConfig(
        detector_config=_sam3_config(len(tokenizer), _FOLLOWED), tracker_config=tracker, low_res_mask_size=16,
        score_threshold_detection=0.1, new_det_thresh=0.1, hotstart_delay=0, hotstart_unmatch_thresh=0,
        hotstart_dup_thresh=0,
    )  # fmt: skip
    config.image_size = 56  # of every part
    images = hf.Sam3ImageProcessor(size={"height": 56, "width": 56}, mask_size={"height": 16, "width": 16})
    videos = hf.Sam2VideoVideoProcessor(size={"height": 56, "width": 56})
    model = hf.Sam3VideoModel(config)
    _find_small_boxes(model.detector_model)
    _see_objects_mostly(model.tracker_model.mask_decoder)
    return model, hf.Sam3VideoProcessor(images, videos, tokenizer)


BUILD: dict[str, Callable[[], tuple[Any, Any]]] = {
    "sam2": _sam2,
    "sam2_video": _sam2_video,
    "sam3": _sam3,
    "sam3_video": _sam3_video,
}
