"""Masks as COCO run-length encoding (RLE): the reference form, made and read by pycocotools.

In the catalog a mask is the compressed RLE string (`counts`), column-major, of the upright original's
height and width, which stand in the same row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

Bitmap = npt.NDArray[np.bool_]


def encode_mask(bitmap: Bitmap) -> str:
    """A boolean bitmap of shape (height, width) as the `counts` of its COCO RLE."""
    encoded = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    return str(encoded["counts"].decode("ascii"))


def encode_polygons(polygons: Sequence[Sequence[float]], width: int, height: int) -> str:
    """The union of polygons, each `[x1, y1, x2, y2, ...]` in pixels, as the `counts` of a COCO RLE."""
    encoded = coco_mask.merge(coco_mask.frPyObjects([list(p) for p in polygons], height, width))
    return str(encoded["counts"].decode("ascii"))


def enlarged(bitmap: Bitmap, width: int, height: int) -> Bitmap:
    """A bitmap, (h, w), at a larger size, (height, width): set where, between its pixels, more than half is.

    One that is not empty stays so: a single pixel may be less than half everywhere, and is then enlarged as it is.
    """
    if bitmap.shape == (height, width):
        return bitmap
    drawn = Image.fromarray(bitmap.astype(np.uint8) * 255)
    between, nearest = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
    large = np.asarray(drawn.resize((width, height), between)) > 127
    return large if large.any() else np.asarray(drawn.resize((width, height), nearest)) > 127


def is_empty(counts: str, width: int, height: int) -> bool:
    """Whether a mask of ours, made for just this size, holds no pixel."""
    return not coco_mask.area({"size": [height, width], "counts": counts.encode("ascii")})


def decode_mask(counts: str, width: int, height: int) -> Bitmap:
    """The bitmap (height, width) of a mask. Raises ValueError if it does not fill exactly that size."""
    if not mask_fits(counts, width, height):
        raise ValueError(f"the mask's runs do not add up to {width} x {height} pixels")
    decoded = coco_mask.decode({"size": [height, width], "counts": counts.encode("ascii")})
    return np.asarray(decoded, dtype=bool)


def mask_fits(counts: str, width: int, height: int) -> bool:
    """Whether the runs of the RLE add up to exactly width x height pixels.

    pycocotools trusts its input (and can read past its buffers), so the runs are summed here before it
    sees them. The string form is cocoapi's: 5 bits a character from chr(48), bit 6 says "more", runs
    after the second are differences to the run two before (rleFrString in cocoapi's maskApi.c).
    """
    runs: list[int] = []
    position = 0
    while position < len(counts):
        value, shift, more = 0, 0, True
        while more:
            if position >= len(counts):
                return False
            character = ord(counts[position]) - 48
            if not 0 <= character < 64:
                return False
            value |= (character & 0x1F) << shift
            more = bool(character & 0x20)
            position += 1
            shift += 5
            if not more and character & 0x10:
                value |= -1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            return False
        runs.append(value)
    return sum(runs) == width * height
