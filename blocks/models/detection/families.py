"""The families of detectors that transformers has: how each is asked, and how what it gives is read.

Boxes are fractions of the image seen, as the networks give them: transformers' post-processing is called without the
sizes of the originals, and `BoxFormat` converts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sightflow.blocks.models.contract import ReplyError
from sightflow.schemas.failure import Cause

Found = tuple[Any, Any, list[int]]
"""Of one image: boxes (n, 4), scores (n,), and for each the index of its label among those asked, or its number."""


@dataclass(frozen=True)
class Thresholds:
    """`score`: the least of a box. `text`: the least of the words of its label (Grounding DINO). `nms`: of two boxes of
    one label that overlap (intersection over union) more than this the better one stays; None: both stay.
    """

    score: float
    text: float = 0.25
    nms: float | None = None


class Family(NamedTuple):
    """`threshold`: the least score by default, as transformers has it. `zero_shot`: asked by text. `pads_to_square`:
    its image is put into the upper left of a square. `nms`: what is suppressed by default.
    """

    threshold: float
    zero_shot: bool = False
    pads_to_square: bool = False
    nms: float | None = None


FAMILIES: dict[str, Family] = {
    "grounding-dino": Family(0.25, zero_shot=True),
    "mm-grounding-dino": Family(0.25, zero_shot=True),
    "owlv2": Family(0.1, zero_shot=True, pads_to_square=True),
    "omdet-turbo": Family(0.3, zero_shot=True, nms=0.5),
    "rf_detr": Family(0.5),
    "d_fine": Family(0.5),
    "rt_detr": Family(0.5),
    "rt_detr_v2": Family(0.5),
}
"""By the `model_type` of their config."""


def read_closed_set(outputs: Any, processor: Any, least: Thresholds) -> list[Found]:
    """What a closed-set detector found in each image: of the best pairs of a box and a label, those above the least."""
    found = processor.post_process_object_detection(outputs, threshold=least.score)
    return [(each["boxes"], each["scores"], each["labels"].tolist()) for each in found]


class Queries:
    """The labels that a zero-shot detector is asked for in one pass, as its processor takes them."""

    def __init__(self, family: str, processor: Any, labels: Sequence[str]) -> None:
        self.family, self.labels = family, tuple(labels)
        self._processor = processor

    def inputs(self, images: Sequence[Any]) -> Any:
        """The processor's inputs for images that it makes equally large."""
        return self._processor(images=list(images), text=[self._text()] * len(images), return_tensors="pt")

    def _text(self) -> str | list[str]:
        if self.family.endswith("grounding-dino"):
            return _sentence(self.labels)
        return list(self.labels)

    def read(self, outputs: Any, inputs: Any, least: Thresholds) -> list[Found]:
        """What was found in each image."""
        if self.family.endswith("grounding-dino"):
            return self._read_grounding(outputs, inputs, least)
        asked = [list(self.labels)] * len(inputs["pixel_values"])
        more: dict[str, Any] = {}
        if self.family == "omdet-turbo":
            more = {"target_sizes": [(1, 1)] * len(asked), "nms_threshold": 1.0 if least.nms is None else least.nms}
        found = self._processor.post_process_grounded_object_detection(
            outputs, threshold=least.score, text_labels=asked, **more
        )
        return [(each["boxes"], each["scores"], each["labels"].tolist()) for each in found]

    def _read_grounding(self, outputs: Any, inputs: Any, least: Thresholds) -> list[Found]:
        """Grounding DINO scores each box against each token. Its label is the one whose tokens score best, if that is
        enough; transformers would put together the words that score, of one label or several.
        """
        import torch

        # Each image is asked the same, so that one row of tokens is that of all.
        spans = self._spans(inputs["input_ids"][0].tolist())
        found = self._processor.post_process_grounded_object_detection(outputs, inputs["input_ids"], least.score, 1.0)
        of_tokens = outputs.logits.sigmoid()
        read: list[Found] = []
        for each, scores in zip(found, of_tokens, strict=True):
            kept = scores[scores.max(dim=-1).values > least.score]
            of_labels = torch.stack([kept[:, first:end].max(dim=-1).values for first, end in spans], dim=-1)
            best, index = of_labels.max(dim=-1)
            enough = best > least.text
            read.append((dict.__getitem__(each, "boxes")[enough], each["scores"][enough], index[enough].tolist()))
        return read

    def _spans(self, tokens: list[int]) -> list[tuple[int, int]]:
        """The first token of each label and the one behind its last: a full stop ends each."""
        stop = self._processor.tokenizer.convert_tokens_to_ids(".")
        ends = [place for place, token in enumerate(tokens) if token == stop]
        spans = list(zip([1, *(end + 1 for end in ends)], ends, strict=False))  # behind the first, special token
        if len(spans) != len(self.labels) or any(first >= end for first, end in spans):
            raise ReplyError(f"the labels {', '.join(self.labels)} are not told apart in the tokens", Cause.UNSUPPORTED)
        return spans


def in_passes(family: str, processor: Any, config: Any, labels: Sequence[str]) -> list[Queries]:
    """The labels in as few passes as the text of the model can hold.

    Raises ReplyError with cause `unsupported` for a label that is too long by itself: its end would not be read.
    """
    if family == "owlv2":
        longest = config.text_config.max_position_embeddings
    else:
        longest = config.max_text_len if family.endswith("grounding-dino") else 77  # OmDet-Turbo's processor cuts there
    lengths = {label: _tokens(processor, label, family) for label in labels}
    for label, tokens in lengths.items():
        if not tokens - 2:
            raise ReplyError(f"the label {label!r} holds no word that the model could read", Cause.UNSUPPORTED)
        if tokens > longest:
            raise ReplyError(f"the label {label!r} has {tokens} tokens, and the model reads {longest}", Cause.TOO_LARGE)
    if not family.endswith("grounding-dino"):
        return [Queries(family, processor, labels)]  # each label has a text of its own
    passes: list[list[str]] = [[]]
    room = longest - 2  # beside the first and the last token
    left = room
    for label in labels:
        needed = lengths[label] - 1  # without two special ones, with the full stop
        if needed > left:
            passes.append([])
            left = room
        passes[-1].append(label)
        left -= needed
    return [Queries(family, processor, each) for each in passes]


def _tokens(processor: Any, label: str, family: str) -> int:
    text = _phrase(label) if family.endswith("grounding-dino") else label
    return len(processor.tokenizer(text, truncation=False)["input_ids"])


def _phrase(label: str) -> str:
    """A label as Grounding DINO is asked for it: lower case, without what would end it."""
    return " ".join(re.sub(r"[.?]", " ", label).lower().split())


def _sentence(labels: Sequence[str]) -> str:
    return ". ".join(map(_phrase, labels)) + "."
