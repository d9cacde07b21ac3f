"""What a detector found, as the text that stands for its reply: a JSON array with an object for each region."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sightflow.blocks.models.contract import ReplyError

_DECIMALS = 6
"""Of fractions of an image's side: a hundredth of a pixel, where there are ten thousand."""


@dataclass(frozen=True)
class Detection:
    """One region that a detector found.

    `box`: four numbers as the box format of its system says. `score`: 0 to 1, or None. `mask`: the `counts` of a COCO
    RLE of the original's height and width, which covers a pixel at least. Of a video that is looked at as a whole,
    `frame`: the number of the sampled frame, from 1; `track`: the number of the object, the same in every frame.
    """

    label: str
    box: Sequence[float]
    score: float | None = None
    mask: str | None = None
    frame: int | None = None
    track: int | None = None


def write_detections(detections: Iterable[Detection]) -> str:
    """The detections as JSON: `[{"label": "dog", "score": 0.93, "box": [0.1, 0.2, 0.3, 0.4]}]`."""
    items = []
    for each in detections:
        item: dict[str, object] = {"label": each.label}
        if each.score is not None:
            item["score"] = round(float(each.score), _DECIMALS)
        item["box"] = [round(float(number), _DECIMALS) for number in each.box]
        if each.mask is not None:
            item["mask"] = each.mask
        item |= {key: number for key, number in (("frame", each.frame), ("track", each.track)) if number is not None}
        items.append(item)
    return json.dumps(items, ensure_ascii=False)


def read_detections(text: str) -> list[Detection]:
    """The inverse of `write_detections`. Raises ReplyError for any other text."""
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReplyError(f"the reply is not JSON: {error}") from None
    if not isinstance(items, list):
        raise ReplyError(f"the reply is no list of detections: {text[:80]!r}")
    return [_detection(item) for item in items]


def _detection(item: Any) -> Detection:
    match item:
        case {"label": str(label), "box": [*box]} if label and all(map(_is_number, box)):
            score, mask, frame, track = (item.get(key) for key in ("score", "mask", "frame", "track"))
            numbers_are_whole = all(n is None or (isinstance(n, int) and _is_number(n)) for n in (frame, track))
            if (score is None or _is_number(score)) and (mask is None or isinstance(mask, str)) and numbers_are_whole:
                return Detection(label, box, score, mask, frame, track)
    raise ReplyError(f"{str(item)[:80]!r} is no detection")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
