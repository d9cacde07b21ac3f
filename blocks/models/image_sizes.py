"""Sizes at which images are shown to a model, in pixels."""

from __future__ import annotations

import math

Size = tuple[int, int]
"""Width and height in pixels."""


def fit_within(size: Size, long_side: int, short_side: int | None = None) -> Size:
    """Shrink a size, keeping its shape, until its sides are within these pixels; never enlarge."""
    width, height = size
    scale = min(1.0, long_side / max(size))
    if short_side is not None:
        scale = min(scale, short_side / min(size))
    return max(1, round(width * scale)), max(1, round(height * scale))


def on_grid(size: Size, step: int, min_pixels: int, max_pixels: int) -> Size:
    """The nearest size whose sides are multiples of `step`, with an area between the two bounds.

    The rule by which the Qwen-VL family resizes its input (arXiv:2409.12191, section 2.1); a picture that
    is already of such a size is left alone by it. Sides are at least one step, also beyond the bounds.
    """
    width, height = (max(step, round(side / step) * step) for side in size)
    if width * height > max_pixels:
        shrink = math.sqrt(size[0] * size[1] / max_pixels)
        width, height = (max(step, math.floor(side / shrink / step) * step) for side in size)
    elif width * height < min_pixels:
        grow = math.sqrt(min_pixels / (size[0] * size[1]))
        width, height = (math.ceil(side * grow / step) * step for side in size)
    return width, height
