"""What is drawn over an image or video: boxes, masks and tracks, in pixels of the upright original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final
from zlib import crc32

import numpy as np

from sightflow.infra.gallery.visible_text import visible
from sightflow.schemas.masks import Bitmap, decode_mask

_COLOURS: Final = 10
_MASK_SIDE: Final = 1024
_MOST_MASK_PIXELS: Final = 64_000_000
_MOST_SHAPES: Final = 2000
_MOST_POINTS: Final = 200_000
_MOST_TRACK_MASKS: Final = 1000
_MOST_TRACK_EDGES: Final = 500_000  # a megabyte of a page
# Of all masks of a row: what is past these bounds is noise, or meant to keep us busy.
_MOST_DECODED_PIXELS: Final = 4_000_000_000
_MOST_EDGES: Final = 200_000


@dataclass(frozen=True)
class Shape:
    """One region. `mask`: an SVG path, None where it has no mask. `seconds`: of the frame of a video."""

    number: int
    label: str
    colour: int
    x: float
    y: float
    width: float
    height: float
    score: float | None
    mask: str | None
    seconds: float | None
    frame: int | None

    @property
    def said(self) -> str:
        """The label, with the score where there is one."""
        return self.label if self.score is None else f"{self.label} {self.score:.2f}"


def colour_of(label: str) -> int:
    """One of the colours of the style sheet, the same for a label everywhere."""
    return crc32(label.encode("utf-8", "backslashreplace")) % _COLOURS


def shapes_of(regions: Sequence[Mapping[str, Any]] | None, width: int, height: int) -> list[Shape]:
    """The regions of a row; a mask that is not of this size has none."""
    masks = _Masks(width, height, [region["mask"] for region in (regions or [])[:_MOST_SHAPES]])
    return [
        Shape(
            number=number,
            label=visible(region["label"]),
            colour=colour_of(region["label"]),
            x=region["x_min"],
            y=region["y_min"],
            width=region["x_max"] - region["x_min"],
            height=region["y_max"] - region["y_min"],
            score=region["score"],
            mask=masks.path(region["mask"]),
            seconds=region["seconds"],
            frame=region["frame_index"],
        )
        for number, region in enumerate((regions or [])[:_MOST_SHAPES])
    ]


def tracks_of(tracks: Sequence[Mapping[str, Any]] | None, width: int, height: int) -> list[dict[str, Any]]:
    """Tracks as the page's script takes them; a point is seconds, box, whether the place was interpolated and, if it
    has a mask that can be drawn, its SVG path.

    The first two thousand, and of these 200,000 points in all; of their masks the first thousand by time.
    """
    left = _MOST_POINTS
    shown = []
    for track in (tracks or [])[:_MOST_SHAPES]:
        shown.append({**track, "points": track["points"][:left]})
        left -= len(shown[-1]["points"])
    masked = sorted((point for track in shown for point in track["points"] if point["mask"]), key=_seconds)
    masked = masked[:_MOST_TRACK_MASKS]
    masks = _Masks(width, height, [point["mask"] for point in masked], _MOST_TRACK_EDGES)
    paths = {id(point): masks.path(point["mask"]) for point in masked}
    return [
        {
            "id": track["track_id"],
            "label": visible(track["label"]),
            "colour": colour_of(track["label"]),
            "points": [
                [
                    round(point["seconds"], 4),
                    *(round(point[edge], 2) for edge in ("x_min", "y_min", "x_max", "y_max")),
                    1 if point["gap"] else 0,
                    *([path] if (path := paths.get(id(point))) else ()),
                ]
                for point in track["points"]
            ],
        }
        for track in shown
    ]


def _seconds(point: Mapping[str, Any]) -> float:
    return float(point["seconds"] or 0.0)


class _Masks:
    """Draws the masks of one row, none of them finer than that there is as much left for each of the others."""

    def __init__(self, width: int, height: int, masks: Sequence[str | None], edges: int = _MOST_EDGES) -> None:
        self._width, self._height = width, height
        self._left = sum(mask is not None for mask in masks)
        self._pixels, self._edges = _MOST_DECODED_PIXELS, edges

    def path(self, counts: str | None) -> str | None:
        """A mask's outline as an SVG path (fill rule evenodd) in pixels of the original; None if it cannot be drawn.

        Exact up to 1024 pixels a side; a larger one is sampled at so many, as nobody sees more, and so is one whose
        edge is too long.
        """
        width, height = self._width, self._height
        if not counts or not self._left:
            return None
        share, self._left = self._edges // self._left, self._left - 1
        if not 0 < width * height <= min(_MOST_MASK_PIXELS, self._pixels):
            return None
        self._pixels -= width * height
        try:
            mask = decode_mask(counts, width, height)
        except ValueError:
            return None
        step = max(1, -(-max(width, height) // _MASK_SIDE))
        while step <= max(width, height):
            sampled = mask[step // 2 :: step, step // 2 :: step]
            if (edges := _edges(sampled)) <= share:
                self._edges -= edges
                return outline(sampled, step)
            step *= 2
        return None


def _edges(mask: Bitmap) -> int:
    padded = np.pad(mask, 1)
    return int((padded[1:] != padded[:-1]).sum() + (padded[:, 1:] != padded[:, :-1]).sum())


def outline(mask: Bitmap, step: int = 1) -> str:
    """The border of a bitmap, along the edges of its pixels, each `step` wide: closed paths of h and v."""
    padded = np.pad(mask, 1).astype(np.int8)
    # Edges run clockwise around what is set: to the right along its upper border, upwards along its left one.
    rows, columns = np.nonzero(np.diff(padded, axis=0)[:, 1:-1]), np.nonzero(np.diff(padded, axis=1)[1:-1])
    below, right = padded[1:, 1:-1][rows] > 0, padded[1:-1, 1:][columns] > 0
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(start: tuple[int, int], end: tuple[int, int], forward: bool) -> None:
        first, second = (start, end) if forward else (end, start)
        edges.setdefault(first, []).append(second)

    for y, x, forward in zip(rows[0].tolist(), rows[1].tolist(), below.tolist(), strict=True):
        add((x, y), (x + 1, y), forward)
    for y, x, forward in zip(columns[0].tolist(), columns[1].tolist(), right.tolist(), strict=True):
        add((x, y + 1), (x, y), forward)
    parts: list[str] = []
    while edges:
        start = next(iter(edges))
        corners, at = [start], start
        while True:
            following = edges[at].pop()
            if not edges[at]:
                del edges[at]
            if len(corners) > 1 and _straight(corners[-2], corners[-1], following):
                corners[-1] = following
            else:
                corners.append(following)
            at = following
            if at == start:
                break
        parts.append(f"M{start[0] * step} {start[1] * step}")
        for (x0, y0), (x1, y1) in pairwise(corners):
            parts.append(f"h{(x1 - x0) * step}" if y0 == y1 else f"v{(y1 - y0) * step}")
        parts.append("z")
    return "".join(parts)


def _straight(first: tuple[int, int], second: tuple[int, int], third: tuple[int, int]) -> bool:
    return first[0] == second[0] == third[0] or first[1] == second[1] == third[1]
