"""Reading regions out of JSON that a model wrote. Nothing is dropped or mended in silence."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from sightflow.blocks.models.contract import Prompt, ReplyError
from sightflow.blocks.models.replies.answer import answer_of, special_token_in
from sightflow.blocks.models.replies.polygon_masks import mask_region
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment, Region, RegionsResult
from sightflow.schemas.geometry import Box, BoxFormat, ImageTransform

_MAX_CHARACTERS = 400_000
_MAX_REGIONS = 10_000
_BEGIN = re.compile(r"[\[{]")
_IS_JSON = re.compile(r"\[\s*[\[\]{\"'\d-]|\{\s*(?:[\"'}]|\w{1,40}\s{0,3}:)")
"""A bracket that begins JSON, or what was meant to be, and not an aside."""
_END = re.compile(r"[\s`.]*(?:</\w{1,20}>)?\s*")
_BOX_KEYS = ("box", "box_2d", "bbox_2d", "bbox")
_ARTICLE = re.compile(r"^(?:the|an?)\s+", re.IGNORECASE)
_LABEL_KEYS = ("label", "phrase", "name")

ReadMask = Callable[[str, Box, ImageTransform], str]
"""Reads a mask that a model wrote as a string, within its box: the `counts` of a COCO RLE of the original."""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number that JSON knows")


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=each_key_once)


def read_json(text: str) -> Any:
    """The one JSON object or array in a reply: bare, in a code fence, or among words.

    Raises ReplyError if there is none, or more than one (a draft and an answer, two fences, a list item by item), if
    one breaks off, if one of nothing is not the reply's last word, or if special tokens stand around it.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ReplyError(f"a reply of {len(text)} characters is too long to be read as JSON")
    body = answer_of(text)
    values: list[Any] = []
    position = first = last = 0
    while begun := _BEGIN.search(body, position):
        if not _IS_JSON.match(body, begun.start()):
            position = begun.end()  # a bracket of prose, as in "[see below]"
            continue
        try:
            value, position = _DECODER.raw_decode(body, begun.start())
        except (ValueError, RecursionError) as error:
            raise ReplyError(f"the reply is not JSON: {error}") from None
        values.append(value)
        first, last = begun.start(), position
        if len(values) > 1:
            raise ReplyError(f"the reply holds more than one JSON value: {body[begun.start() : begun.start() + 80]!r}")
    if not values:
        raise ReplyError(f"the reply holds no JSON: {text.strip()[:80]!r}")
    before, after = body[:first], body[last:]
    if token := special_token_in(before) or special_token_in(after):
        raise ReplyError(f"the reply holds {token!r} beside its JSON: {body[:80]!r}")
    if _is_nothing(values[0]) and not _END.fullmatch(after):  # "I should answer [] if there is none. I see two."
        raise ReplyError(f"the reply says nothing, and goes on: {after.strip()[:80]!r}")
    return values[0]


def _is_nothing(value: Any) -> bool:
    return all(member == [] for member in value.values()) if isinstance(value, dict) else value == []


def read_regions(
    text: str,
    enrichment: Enrichment,
    space: BoxFormat,
    transform: ImageTransform,
    box_keys: Sequence[str] = _BOX_KEYS,
    read_mask: ReadMask | None = None,
) -> RegionsResult:
    """The regions of a JSON reply, in pixels of the original.

    Accepts an array of entries, or an object whose only array holds them. Each entry needs a label (it
    may be left out when a single label or phrase was asked for) and a box of four numbers in `space`;
    segmentation needs a polygon, or a mask that `read_mask` reads, as well. Raises ReplyError or
    GeometryError for the whole reply if any entry is not so, or has a label that was not asked for.
    """
    entries = read_entries(text)
    return RegionsResult(tuple(_region(entry, enrichment, space, transform, box_keys, read_mask) for entry in entries))


def read_entries(text: str) -> list[Any]:
    """The entries of a JSON reply as `read_regions` takes them, in their order. Raises ReplyError."""
    entries = _entries(read_json(text))
    if len(entries) > _MAX_REGIONS:
        raise ReplyError(f"{len(entries)} regions are more than the {_MAX_REGIONS} that are believed")
    return entries


def asked_label(label: str | None, enrichment: Enrichment) -> str:
    """The label as it was asked for; ReplyError if it was not asked for at all."""
    requested = enrichment.phrases or enrichment.labels
    if not requested:
        if not label or not label.strip():
            raise ReplyError("a region has no label")
        if token := special_token_in(label):
            raise ReplyError(f"a label holds {token!r}, which is no text: {label[:80]!r}")
        return label.strip()
    if label is None and len(requested) == 1:
        return requested[0]
    wanted = {word.casefold(): word for word in requested}
    if label is None or label.strip().casefold() not in wanted:
        raise ReplyError(f"the label {str(label)[:80]!r} was not asked for")
    return wanted[label.strip().casefold()]


def label_about(found: str, prompt: Prompt, enrichment: Enrichment) -> str:
    """The label as it was asked for, of a reply to a question about one; an article more or less, or no label at all,
    does not make it another. Raises ReplyError.
    """
    if prompt.subject is None:
        return asked_label(found, enrichment)
    if found.strip() and _bare(found) != _bare(prompt.subject):
        raise ReplyError(f"asked for {prompt.subject!r}, the reply is about {found.strip()[:80]!r}")
    return prompt.subject


def _bare(text: str) -> str:
    return _ARTICLE.sub("", text.strip().strip(".")).casefold()


def _entries(value: Any) -> list[Any]:
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list)]
        if any(key in value for key in _BOX_KEYS):
            return [value]
        if len(lists) == 1:
            return lists[0]
    if isinstance(value, list):
        return value
    raise ReplyError(f"a list of regions was expected, not {str(value)[:80]}")


def _region(
    entry: Any,
    enrichment: Enrichment,
    space: BoxFormat,
    transform: ImageTransform,
    box_keys: Sequence[str],
    read_mask: ReadMask | None,
) -> Region:
    if not isinstance(entry, dict):
        raise ReplyError(f"a region is an object with label and box, not {str(entry)[:80]}")
    label = next((entry[key] for key in _LABEL_KEYS if isinstance(entry.get(key), str)), None)
    label = asked_label(label, enrichment)
    score = _score(entry)
    if enrichment.capability is not Capability.SEGMENTATION:
        return Region(label, _box(entry, space, transform, box_keys), score)
    drawn = entry.get("mask")
    if read_mask is not None and isinstance(drawn, str):
        box = _box(entry, space, transform, box_keys)
        return Region(label, box, score, read_mask(drawn, box, transform))
    polygon = _polygon(entry, space, transform)
    return mask_region(label, [polygon], transform.width, transform.height, score)


def _box(entry: dict[str, Any], space: BoxFormat, transform: ImageTransform, box_keys: Sequence[str]) -> Box:
    boxes = [entry[key] for key in box_keys if key in entry]
    if len(boxes) > 1:
        raise ReplyError(f"a region has one box, not {len(boxes)}: {str(entry)[:80]}")
    return space.to_pixels(_numbers(boxes[0] if boxes else None, "box"), transform)


def _polygon(entry: dict[str, Any], space: BoxFormat, transform: ImageTransform) -> list[float]:
    points = entry.get("polygon", entry.get("mask"))
    if isinstance(points, list) and points and all(isinstance(p, list) for p in points):
        pairs = [_numbers(point, "point") for point in points]
    else:
        flat = _numbers(points, "polygon")
        if len(flat) % 2:
            raise ReplyError(f"a polygon of {len(flat)} numbers is not a list of points")
        pairs = [flat[k : k + 2] for k in range(0, len(flat), 2)]
    if len(pairs) < 3:
        raise ReplyError(f"a polygon of {len(pairs)} points encloses nothing")
    return [number for pair in pairs for number in space.point_to_pixels(pair, transform)]


def _numbers(value: Any, what: str) -> list[float]:
    if not isinstance(value, list) or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in value):
        raise ReplyError(f"a {what} is a list of numbers, not {str(value)[:80]}")
    try:
        numbers = [float(n) for n in value]
    except OverflowError:
        raise ReplyError(f"a {what} holds a number that is too large") from None
    if not all(math.isfinite(n) for n in numbers):
        raise ReplyError(f"a {what} holds a number that is not finite")
    return numbers


def _score(entry: dict[str, Any]) -> float | None:
    score = entry.get("score", entry.get("confidence"))
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise ReplyError(f"a score is a number from 0 to 1, not {str(score)[:80]}")
    return float(score)
