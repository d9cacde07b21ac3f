"""The shape of the demo's model: a Florence-2 of four million parameters and a processor with a closed vocabulary."""

import math
from copy import deepcopy
from pathlib import Path
from typing import Final

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    BartConfig,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
)

from sightflow.infra.demo.shapes_vocabulary import LOCATION_BINS, PUNCTUATION, VQA_TASK, words
from sightflow.infra.demo.training_cache import GRID, SIDE

WIDTH: Final = 192
# 64 spatial tokens, led by their mean: what Florence2MultiModalProjector makes of one image.
IMAGE_TOKENS: Final = GRID * GRID + 1
_SPECIAL: Final = ("<s>", "<pad>", "</s>", "<unk>", "<image>", "<sep>", "<poly>", "</poly>")
_WORD_START: Final = "▁"
# The parsers of Florence2PostProcessor that the released checkpoints configure; all need an entry to be used.
_PARSERS: Final = (
    "pure_text", "description_with_bboxes", "phrase_grounding", "polygons", "bboxes",
    "description_with_bboxes_or_polygons", "description_with_polygons", "ocr",
)  # fmt: skip


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a word-level, lower-casing tokenizer; location tokens are special, as in the released checkpoints."""
    vocabulary = [*_SPECIAL, *PUNCTUATION, *(_WORD_START + word for word in words())]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=_WORD_START, prepend_scheme="always"),
            pre_tokenizers.Split(Regex(r"[.,?:]"), behavior="isolated"),
        ]
    )
    # Not decoders.Metaspace: it drops the first space, and Florence2PostProcessor decodes token by token.
    backend.decoder = decoders.Replace(_WORD_START, " ")
    special = [*_SPECIAL, VQA_TASK, *(f"<loc_{index}>" for index in range(LOCATION_BINS))]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=256,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> Florence2Processor:
    """Return the native processor: 128x128 pictures, ImageNet mean and deviation, the closed vocabulary."""
    image_processor = CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        do_convert_rgb=True,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    image_processor.image_seq_length = IMAGE_TOKENS
    return Florence2Processor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        post_processor_config={name: {} for name in _PARSERS},
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Florence2ForConditionalGeneration:
    """Return the model with random weights from torch's current seed."""
    config = Florence2Config(
        text_config=BartConfig(
            vocab_size=len(tokenizer),
            d_model=WIDTH,
            encoder_layers=2,
            decoder_layers=3,
            encoder_attention_heads=6,
            decoder_attention_heads=6,
            encoder_ffn_dim=4 * WIDTH,
            decoder_ffn_dim=4 * WIDTH,
            max_position_embeddings=256,
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.eos_token_id,
            forced_eos_token_id=None,
        ).to_dict(),
        vision_config={
            "depths": (1, 1, 1, 1),
            "embed_dim": (24, 48, 96, 192),
            "num_heads": (1, 2, 4, 8),
            "num_groups": (1, 2, 4, 8),
            "patch_stride": (4, 2, 2, 1),
            "window_size": 8,
            "drop_path_rate": 0.0,
            "projection_dim": WIDTH,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Florence2ForConditionalGeneration(config)
    _order_locations(model, tokenizer)
    generation = model.generation_config
    generation.decoder_start_token_id = tokenizer.eos_token_id
    generation.bos_token_id = tokenizer.bos_token_id
    generation.pad_token_id = tokenizer.pad_token_id
    generation.eos_token_id = tokenizer.eos_token_id
    generation.forced_eos_token_id = None
    generation.max_new_tokens = 96
    generation.do_sample = False
    generation.num_beams = 1
    return model


def _order_locations(model: Florence2ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Start neighbouring location tokens near one another: a smooth curve through the space, not random points."""
    first = tokenizer.convert_tokens_to_ids("<loc_0>")
    weight = model.get_input_embeddings().weight
    position = (torch.arange(LOCATION_BINS) + 0.5) / LOCATION_BINS
    waves = torch.cos(math.pi * position[:, None] * torch.arange(1, 25)[None, :])
    curve = waves @ torch.randn(waves.shape[1], weight.shape[1])
    with torch.no_grad():
        weight[first : first + LOCATION_BINS] = 0.02 * curve / curve.std()


def save(model: Florence2ForConditionalGeneration, processor: Florence2Processor, folder: Path) -> None:
    """Write weights in half precision and all that `from_pretrained` needs; loading gives float32 by default.

    Files are written beside the folder and moved into it one by one, so a reader never meets half a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.staging")
    deepcopy(model).half().save_pretrained(staging)
    processor.save_pretrained(staging)
    config = staging / "config.json"
    config.write_text(config.read_text().replace('"float16"', '"float32"'))
    # The weights go last: once they are new, so is everything that explains them.
    for path in sorted(staging.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        path.chmod(0o644)
        path.replace(folder / path.name)
    staging.rmdir()
