"""Pictures as hosted models are sent them: no larger than the vendor will use, as JPEG or PNG."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sightflow.blocks.models.image_sizes import Size

if TYPE_CHECKING:
    from PIL import Image

_LOSSLESS_PIXELS = 512 * 512
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class EncodedImage:
    """A picture's file, ready to send, and its size in pixels."""

    data: bytes
    mime_type: str
    width: int
    height: int

    @property
    def base64(self) -> str:
        """The file in base 64 (RFC 4648)."""
        return base64.b64encode(self.data).decode("ascii")

    @property
    def data_url(self) -> str:
        """The file as a `data:` URL (RFC 2397)."""
        return f"data:{self.mime_type};base64,{self.base64}"


def encode_image(image: Image.Image, size: Size) -> EncodedImage:
    """Resize a picture and encode it: small ones as PNG, which costs little and loses nothing, others as JPEG.

    The same picture gives the same bytes, and nothing but its pixels is sent: no comments, no places.
    """
    from PIL import Image

    sent = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    sent.info.clear()
    file = io.BytesIO()
    if size[0] * size[1] <= _LOSSLESS_PIXELS:
        sent.save(file, "PNG")
        return EncodedImage(file.getvalue(), "image/png", *size)
    sent.save(file, "JPEG", quality=_JPEG_QUALITY)
    return EncodedImage(file.getvalue(), "image/jpeg", *size)
