"""Masks as one polygon each: exactly the pixels' own edges, parts and holes joined by bridges without area.

Formats that take one polygon an object (YOLO, Label Studio) get a mask of several parts, or with holes, as one closed
line that goes to the next part and comes back the same way. By the even-odd rule, by which OpenCV and pycocotools fill,
the ways there and back cancel: `schemas.masks.encode_polygons` gives the same mask again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sightflow.blocks.exports.exported import LeftOut, Row
from sightflow.schemas.capability import Capability
from sightflow.schemas.masks import Bitmap, decode_mask

Point = tuple[int, int]
Polygon = npt.NDArray[np.float64]
"""Shape (points, 2): x, y in pixels, (0, 0) the upper left corner of the upper left pixel."""


MOST_EDGES = 500_000
"""Of one outline: each takes some hundred bytes while it is made. A mask of noise has as many as it has pixels."""


def with_outlines(row: Row, left_out: LeftOut) -> Row:
    """A row of a segmentation without the regions whose outline would be too long, which are told; others as is."""
    if row["capability"] != Capability.SEGMENTATION:
        return row
    size = row["width"], row["height"]
    kept = [each for each in row["regions"] if edges(decode_mask(each["mask"], *size)) <= MOST_EDGES]
    left_out.add("masks whose outline has more than half a million edges", len(row["regions"]) - len(kept))
    return {**row, "regions": kept}


def edges(bitmap: Bitmap) -> int:
    """How many sides of pixels lie between inside and outside."""
    padded = np.pad(bitmap, 1)
    return int((padded[1:] != padded[:-1]).sum() + (padded[:, 1:] != padded[:, :-1]).sum())


def outline(bitmap: Bitmap) -> Polygon:
    """The edge of a mask (height, width), not empty, as one polygon through corners of pixels."""
    loops = _loops(bitmap)
    points = [*loops[0]]
    for loop in loops[1:]:
        points += [loops[0][0], *loop, loop[0]]
    if len(loops) > 1:
        points.append(loops[0][0])
    return np.array(points, dtype=np.float64)


def _loops(bitmap: Bitmap) -> list[list[Point]]:
    """The closed lines between inside and outside, with the inside on the right; corners only."""
    padded = np.pad(bitmap.astype(bool), 1)
    inner = padded[1:-1, 1:-1]
    onward: dict[Point, list[Point]] = defaultdict(list)
    for outside, start, end in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # above: the edge goes right
        (padded[1:-1, 2:], (1, 0), (1, 1)),  # to the right: down
        (padded[2:, 1:-1], (1, 1), (0, 1)),  # below: left
        (padded[1:-1, :-2], (0, 1), (0, 0)),  # to the left: up
    ):
        for row, column in np.argwhere(inner & ~outside).tolist():
            onward[column + start[0], row + start[1]].append((column + end[0], row + end[1]))
    loops = []
    while onward:
        loops.append(_corners(_walk(onward, next(iter(onward)))))
    return loops


def _walk(onward: dict[Point, list[Point]], start: Point) -> list[Point]:
    """Follow the edges from a corner until it is reached again, and take them away."""
    path, here = [start], start
    direction: Point | None = None
    while True:
        choices = onward[here]
        turn = direction
        # Two ways on: where two pixels touch at a corner. The right turn stays with the same pixel.
        following = choices[0]
        if len(choices) == 2 and turn is not None:
            right = (-turn[1], turn[0])
            following = next(each for each in choices if (each[0] - here[0], each[1] - here[1]) == right)
        choices.remove(following)
        if not choices:
            del onward[here]
        direction = (following[0] - here[0], following[1] - here[1])
        here = following
        if here == start:
            return path
        path.append(here)


def _corners(path: Sequence[Point]) -> list[Point]:
    """A closed line without the points that lie straight between their neighbours."""
    points = np.array(path)
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    kept = points[np.any(before != after, axis=1)]
    return [(int(x), int(y)) for x, y in kept]
