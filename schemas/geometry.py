"""Boxes and the coordinate spaces they come in.

The catalog has one form: absolute pixels of the upright original (EXIF orientation applied), floats,
`x_min, y_min, x_max, y_max`. Every model declares its native space; `BoxFormat.to_pixels` is the one
function that converts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


class GeometryError(ValueError):
    """A box or polygon that cannot be mended honestly: outside, inverted, empty or not finite."""


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in absolute pixels of the upright original."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    @property
    def area(self) -> float:
        return (self.x_max - self.x_min) * (self.y_max - self.y_min)

    def iou(self, other: Box) -> float:
        """Intersection over union with another box, 0..1."""
        width = min(self.x_max, other.x_max) - max(self.x_min, other.x_min)
        height = min(self.y_max, other.y_max) - max(self.y_min, other.y_min)
        if width <= 0 or height <= 0:
            return 0.0
        return width * height / (self.area + other.area - width * height)


@dataclass(frozen=True)
class ImageTransform:
    """How the image that the model saw lies over the original.

    `width, height`: the upright original. `seen_width, seen_height`: the image given to the model,
    padding included. `left, top`: the padding before the content, negative where it was cropped.
    `content_width, content_height`: the content's size in pixels of the image seen; 0: all of it.
    """

    width: int
    height: int
    seen_width: float
    seen_height: float
    left: float = 0.0
    top: float = 0.0
    content_width: float = 0.0
    content_height: float = 0.0

    @classmethod
    def whole(cls, width: int, height: int) -> ImageTransform:
        """The model saw the whole original, stretched or not, without padding."""
        return cls(width, height, width, height)

    @classmethod
    def resized(cls, width: int, height: int, seen_width: int, seen_height: int) -> ImageTransform:
        """The model saw the original resized to this many pixels."""
        return cls(width, height, seen_width, seen_height)


@dataclass(frozen=True)
class BoxFormat:
    """The coordinates a model speaks in.

    `scale`: how many units span one side of the image the model saw (1000 for per-mille, 1 for
    fractions); `None` means pixels of that image. `order`: how a box's four numbers are ordered.
    `point_order`: how a polygon's points are ordered (Gemini's boxes are y-first, its polygons x-first).
    `quantum`: the smallest step the model can express, in units; a box may pass the edge by one.
    """

    scale: float | None
    order: Literal["xyxy", "yxyx"] = "xyxy"
    point_order: Literal["xy", "yx"] = "xy"
    quantum: float = 1.0

    def to_pixels(self, numbers: Sequence[float], transform: ImageTransform) -> Box:
        """Convert one native box (4 numbers) into pixels of the original.

        Raises GeometryError if a number is not finite, the box is inverted or empty, or an edge lies
        further outside than one quantum. An edge outside by at most one quantum is clipped.
        """
        if len(numbers) != 4:
            raise GeometryError(f"a box has 4 numbers, this one has {len(numbers)}")
        x_min, y_min, x_max, y_max = numbers if self.order == "xyxy" else (numbers[i] for i in (1, 0, 3, 2))
        left, top = self.point_to_pixels((x_min, y_min), transform, order="xy")
        right, bottom = self.point_to_pixels((x_max, y_max), transform, order="xy")
        if right <= left or bottom <= top:
            raise GeometryError(f"the box {list(numbers)} is inverted or empty")
        return Box(left, top, right, bottom)

    def point_to_pixels(
        self, point: Sequence[float], transform: ImageTransform, order: Literal["xy", "yx"] | None = None
    ) -> tuple[float, float]:
        """Convert one native point into (x, y) pixels of the original; errors as `to_pixels`."""
        if len(point) != 2:
            raise GeometryError(f"a point has 2 numbers, this one has {len(point)}")
        x, y = point if (order or self.point_order) == "xy" else (point[1], point[0])
        content_width = transform.content_width or transform.seen_width
        content_height = transform.content_height or transform.seen_height
        return (
            self._along(x, transform.seen_width, transform.left, content_width, transform.width),
            self._along(y, transform.seen_height, transform.top, content_height, transform.height),
        )

    def from_pixels(self, box: Box, transform: ImageTransform) -> tuple[float, float, float, float]:
        """The inverse of `to_pixels`, unrounded: what a perfect model would say of this box."""
        content_width = transform.content_width or transform.seen_width
        content_height = transform.content_height or transform.seen_height

        def along(value: float, seen: float, before: float, content: float, original: int) -> float:
            unit = 1.0 if self.scale is None else seen / self.scale
            return (before + value / original * content) / unit

        x_min, x_max = (
            along(x, transform.seen_width, transform.left, content_width, transform.width)
            for x in (box.x_min, box.x_max)
        )
        y_min, y_max = (
            along(y, transform.seen_height, transform.top, content_height, transform.height)
            for y in (box.y_min, box.y_max)
        )
        return (x_min, y_min, x_max, y_max) if self.order == "xyxy" else (y_min, x_min, y_max, x_max)

    def _along(self, value: float, seen: float, before: float, content: float, original: int) -> float:
        """One axis: native units -> pixels of the seen picture -> content -> pixels of the original."""
        if not math.isfinite(value):
            raise GeometryError(f"the coordinate {value} is not a finite number")
        unit = 1.0 if self.scale is None else seen / self.scale
        pixels = (value * unit - before) / content * original
        allowance = self.quantum * unit / content * original * (1 + 1e-9)
        if pixels < -allowance or pixels > original + allowance:
            raise GeometryError(f"the coordinate {value:g} lies outside the picture by more than one native step")
        return min(max(pixels, 0.0), float(original))


PER_MILLE = BoxFormat(scale=1000.0)
PIXELS_SEEN = BoxFormat(scale=None)
