"""What a reader of label files gives, and what all of them hold to: files are read within bounds, and are never
code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from sightflow.schemas.failure import SightflowError
from sightflow.schemas.masks import Bitmap, encode_polygons

Facts = Mapping[str, Any]
"""What the catalog knows of an object: `width`, `height`, `duration`, `frame_rate` and the others of a row."""

MOST_BYTES: Final = 512 * 2**20
"""Of one file that has to be read as a whole."""
_MOST_POINTS = 100_000
_MOST_WHOLE = 2**53
_CLIPPED_PIXELS = 1.0


class UnreadableLabels(SightflowError):
    """A file is not of the format that it is said to be; the message names the file, and the place in it."""


class WrongLabel(ValueError):
    """One label says what cannot be; the message says what."""


@dataclass(frozen=True)
class FoundLabel:
    """One label in a file.

    `object`: a URI, or a file name that is to be found among the catalog's. `enrichment`: its name, empty where the
    format has none. `result`: the columns of the result, given what the catalog knows of the object; it raises
    WrongLabel. `place`: where it stands, for messages. `object_version`: of the object that was labelled, where the
    file tells it. `says_nothing`: it has no result of any enrichment, which is one only where a person says of which.
    """

    object: str
    enrichment: str
    result: Callable[[Facts], dict[str, Any]]
    place: str
    object_version: str | None = None
    without_suffix: bool = False
    says_nothing: bool = False

    def read(self, facts: Facts) -> dict[str, Any]:
        """The columns of the result. Raises WrongLabel for whatever keeps it from being read."""
        try:
            return self.result(facts)
        except WrongLabel:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise WrongLabel(f"it is not of the format: {type(error).__name__}: {error}") from None


def label_of_file(
    name: str, known: Mapping[str, Mapping[str, Any]], result: Callable[[Facts], dict[str, Any]], file: Path
) -> FoundLabel:
    """The label that a file of its own holds. `known`: by its name, what `objects.jsonl` says of the object; where it
    says nothing, the name is looked for among the catalog's without suffixes.
    """
    about = known.get(name, {})
    version = about.get("object_version")
    uri = str(about.get("uri", name))
    return FoundLabel(uri, "", result, str(file), version, without_suffix=name not in known)


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """A file as UTF-8. Raises UnreadableLabels if it is not there, no text, or larger than `most` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise UnreadableLabels(f"{path} has more than {most:,} bytes; split it into several files")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UnreadableLabels(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UnreadableLabels(f"{path} is no text in UTF-8") from None


def read_json(path: Path) -> Any:
    """A JSON file. Raises UnreadableLabels if it is none."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UnreadableLabels(f"{path} is no JSON: {error}") from None


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a text file that are not empty, each with its place."""
    for number, line in enumerate(read_text(path).split("\n"), 1):  # `splitlines` knows ends that JSON holds in text
        if line.strip():
            yield line, f"{path}:{number}"


def objects_of(folder: Path) -> list[dict[str, Any]]:
    """What `objects.jsonl` beside an export says of its files; none if it is not there."""
    place = folder / "objects.jsonl"
    if not place.exists():
        return []
    found = []
    for line, at in lines_of(place):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("uri"), str):
            raise UnreadableLabels(f"{at} says of no object which it is")
        found.append(entry)
    return found


def without_suffix(name: str) -> str:
    """A file name, with its folders, without the suffix of its last part."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.rpartition('.')[0] or last}"


def number(value: Any) -> float:
    """A finite number. Raises WrongLabel."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise WrongLabel(f"{str(value)[:60]!r} is no number")
    try:
        found = float(value)
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise WrongLabel(f"{str(value)[:60]!r} is no finite number")
    return found


def whole(value: Any) -> int:
    """A whole number, which may be written as 3 or 3.0. Raises WrongLabel."""
    found = number(value)
    if not found.is_integer() or abs(found) >= _MOST_WHOLE:
        raise WrongLabel(f"{str(value)[:60]!r} is no whole number")
    return int(found)


def seconds_of(frame: int, facts: Facts) -> float:
    """When a frame, counted from 0, is shown. Raises WrongLabel if the video has ended by then."""
    rate, duration = facts["frame_rate"], facts["duration"]
    if not rate or not duration:
        return 0.0
    if not 0 <= frame <= 1.1 * duration * rate + 1:  # rates and durations are rounded, and some rates change
        raise WrongLabel(f"the frame {frame + 1:,} of a video of {duration:g} s at {rate:g} frames a second")
    return min(frame / float(rate), float(duration))


def region(label: str, box: Sequence[float], facts: Facts, **more: Any) -> dict[str, Any]:
    """A region of `LabelRow` with a box `x_min, y_min, x_max, y_max` in pixels; up to a pixel past an edge is
    clipped.
    """
    return {
        "label": label,
        **clipped(box, facts),
        "score": None,
        "mask": None,
        "frame_index": None,
        "seconds": None,
        **more,
    }


def clipped(box: Sequence[float], facts: Facts) -> dict[str, float]:
    """A box, inside the image if no edge is further outside than a pixel; checks of the table refuse the others."""
    x_min, y_min, x_max, y_max = box
    return {
        "x_min": _within(x_min, facts["width"]),
        "y_min": _within(y_min, facts["height"]),
        "x_max": _within(x_max, facts["width"]),
        "y_max": _within(y_max, facts["height"]),
    }


def _within(value: float, most: int) -> float:
    if -_CLIPPED_PIXELS <= value <= most + _CLIPPED_PIXELS:
        return min(max(value, 0.0), float(most))
    return value


def mask_of_polygons(polygons: Sequence[Sequence[float]], facts: Facts) -> str:
    """The mask of polygons `x1, y1, x2, y2, ...` in pixels. Raises WrongLabel for what pycocotools is not to see."""
    width, height = facts["width"], facts["height"]
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2 or len(polygon) > 2 * _MOST_POINTS:
            raise WrongLabel(f"an outline of {len(polygon)} numbers")
        points = np.asarray([number(each) for each in polygon]).reshape(-1, 2)
        if (points < -_CLIPPED_PIXELS).any() or (points > np.array([width, height]) + _CLIPPED_PIXELS).any():
            raise WrongLabel("an outline leaves the image")
    if not polygons:
        raise WrongLabel("a mask without an outline")
    inside = [np.clip(np.asarray(each, dtype=float).reshape(-1, 2), 0, [width, height]) for each in polygons]
    return encode_polygons([each.reshape(-1).tolist() for each in inside], width, height)


def box_of(mask: Bitmap) -> tuple[float, float, float, float]:
    """The smallest box around a mask (height, width). Raises WrongLabel if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise WrongLabel("a mask without a pixel")
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
