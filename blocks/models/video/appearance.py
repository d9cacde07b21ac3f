"""What an object looks like, by its colours alone: enough to tell two people who cross by what they wear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from sightflow.schemas.geometry import Box

if TYPE_CHECKING:
    from PIL import Image

_LEVELS: Final = 6  # of each of red, green and blue
_INNER: Final = 0.7  # of width and height: what is at the edge of a box is mostly behind the object
_SIDE: Final = 16  # pixels to which it is shrunk


def appearance(frame: Image.Image, box: Box, width: int, height: int) -> Any:
    """The colours in the middle of a box, as a unit vector of 216 numbers: the square roots of a histogram's shares.
    The Hellinger distance of two is the square root of 1 less their product.

    `box` is in pixels of the upright original of `width` x `height`, of which `frame` may be a smaller copy. Each count
    goes by halves to the neighbouring levels too, so that a little more light is not another colour.
    """
    across, down = frame.width / width, frame.height / height
    margin_x, margin_y = ((1 - _INNER) / 2 * side for side in (box.x_max - box.x_min, box.y_max - box.y_min))
    left = min(max(int((box.x_min + margin_x) * across), 0), frame.width - 1)
    top = min(max(int((box.y_min + margin_y) * down), 0), frame.height - 1)
    right = min(max(int((box.x_max - margin_x) * across), left + 1), frame.width)
    bottom = min(max(int((box.y_max - margin_y) * down), top + 1), frame.height)
    middle = frame.convert("RGB").resize((_SIDE, _SIDE), box=(left, top, right, bottom))
    levels = np.asarray(middle, dtype=np.int64).reshape(-1, 3) * _LEVELS // 256
    counts = np.bincount(levels @ (_LEVELS**2, _LEVELS, 1), minlength=_LEVELS**3).astype(float)
    cube = counts.reshape((_LEVELS,) * 3)
    padded = np.pad(cube, 1)
    inner = slice(1, -1)
    softened = cube.copy()
    for axis in range(3):
        for shift in (slice(0, -2), slice(2, None)):
            softened += padded[tuple(shift if k == axis else inner for k in range(3))] / 2
    return np.sqrt(softened.ravel() / softened.sum())
