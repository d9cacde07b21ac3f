"""Pictures as hosted models are sent them: no larger than the vendor will use, as JPEG or PNG."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

from PIL import Image

_LOSSLESS_PIXELS = 512 * 512
_JPEG_QUALITY = 92

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class EncodedImage:
    """A picture's file, ready to send, and its size in pixels."""

    data: bytes
    mime_type: str
    width: int
    height: int

    @property
    def data_url(self) -> str:
        """The file as a `data:` URL (RFC 2397)."""
        return f"data:{self.mime_type};base64,{base64.b64encode(self.data).decode('ascii')}"


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


def encode_image(image: Image.Image, size: Size) -> EncodedImage:
    """Resize a picture and encode it: small ones as PNG, which costs little and loses nothing, others as JPEG.

    The same picture gives the same bytes, and nothing but its pixels is sent: no comments, no places.
    """
    sent = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    sent.info.clear()
    file = io.BytesIO()
    if size[0] * size[1] <= _LOSSLESS_PIXELS:
        sent.save(file, "PNG")
        return EncodedImage(file.getvalue(), "image/png", *size)
    sent.save(file, "JPEG", quality=_JPEG_QUALITY)
    return EncodedImage(file.getvalue(), "image/jpeg", *size)
