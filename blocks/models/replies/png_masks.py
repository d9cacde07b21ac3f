"""Masks that a model writes as pictures: a base64 PNG of probabilities inside a box (Gemini up to 2.5)."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from PIL import Image

from sightflow.blocks.models.contract import ReplyError
from sightflow.schemas.geometry import Box, GeometryError, ImageTransform
from sightflow.schemas.masks import encode_mask

_MASK_PIXELS = 4_000_000
_PROBABLE = 127


def read_probability_mask(encoded: str, box: Box, transform: ImageTransform) -> str:
    """A base64 PNG of probabilities (0..255) that spans its box, as the `counts` of a COCO RLE of the original.

    Raises ReplyError if it is no such PNG, GeometryError if it covers nothing.
    """
    left, top = math.floor(box.x_min), math.floor(box.y_min)
    size = (math.ceil(box.x_max) - left, math.ceil(box.y_max) - top)
    try:
        data = base64.b64decode(encoded.removeprefix("data:image/png;base64,"), validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > _MASK_PIXELS:
                raise ReplyError(f"a mask of {image.width} x {image.height} pixels is not believed")
            probable = image.convert("L").resize(size, Image.Resampling.BILINEAR)
    except ReplyError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them into
        raise ReplyError(f"a mask is not a base64 PNG: {type(error).__name__}: {error}"[:200]) from None
    bitmap = np.zeros((transform.height, transform.width), dtype=bool)
    bitmap[top : top + size[1], left : left + size[0]] = np.asarray(probable) > _PROBABLE
    if not bitmap.any():
        raise GeometryError("the mask covers nothing")
    return encode_mask(bitmap)
