"""Masks that a model draws as outlines."""

from __future__ import annotations

from collections.abc import Sequence

from sightflow.schemas.enrichment import Region
from sightflow.schemas.geometry import Box, GeometryError

_LEAST_AREA = 1.0
"""Square pixels of the original: what encloses less is a point or a line."""


def mask_region(
    label: str, polygons: Sequence[Sequence[float]], width: int, height: int, score: float | None = None
) -> Region:
    """A region from polygons `[x1, y1, x2, y2, ...]` in pixels of the original: the mask, and the box around them.

    Raises GeometryError if one encloses less than a pixel (too few points, all on one line, or hardly apart), or if
    they cover none: an outline that is drawn twice encloses twice as much as it covers.
    """
    from sightflow.schemas.masks import encode_polygons, is_empty  # with numpy, which a plan can do without

    for polygon in polygons:
        if enclosed_area(polygon) < _LEAST_AREA:
            raise GeometryError(f"a polygon of {len(polygon) // 2} points encloses nothing")
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    counts = encode_polygons(polygons, width, height)
    if is_empty(counts, width, height):
        raise GeometryError("the polygons cover no pixel")
    return Region(label, Box(min(xs), min(ys), max(xs), max(ys)), score, counts)


def region_if_any(label: str, polygons: Sequence[Sequence[float]], width: int, height: int) -> Region | None:
    """As `mask_region`, without the outlines that enclose nothing; None if no pixel is left.

    For a model that has no other scale than its own bins: such an outline then says that there is nothing; one of
    a model that writes numbers may be in another scale.
    """
    drawn = [polygon for polygon in polygons if enclosed_area(polygon) >= _LEAST_AREA]
    try:
        return mask_region(label, drawn, width, height) if drawn else None
    except GeometryError:  # drawn twice, and covers nothing
        return None


def enclosed_area(polygon: Sequence[float]) -> float:
    """The area of a simple polygon `[x1, y1, x2, y2, ...]` (the shoelace formula), in square units."""
    xs, ys = polygon[0::2], polygon[1::2]
    pairs = zip(xs, ys, [*xs[1:], *xs[:1]], [*ys[1:], *ys[:1]], strict=True)
    return abs(sum(x * next_y - next_x * y for x, y, next_x, next_y in pairs)) / 2
