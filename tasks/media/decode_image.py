"""Bytes become upright RGB pixels, or a failure with its cause. Media are hostile input."""

from __future__ import annotations

import hashlib
import io
from typing import Final

import filetype
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from sightflow.schemas.failure import Cause, Failure, Stage
from sightflow.schemas.media import DecodedImage, Media
from sightflow.schemas.spec import Limits

# The formats that are tried, by content; Pillow knows more, and each more is more to attack.
IMAGE_FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
# Pillow's own guard raises at open; here the size is read from the header and told in the failure.
Image.MAX_IMAGE_PIXELS = None
Image.init()
_TURNED_ORIENTATIONS: Final = (5, 6, 7, 8)  # EXIF orientations in which rows are columns


def decode(content: bytes, limits: Limits, side: int | None = None) -> Media | Failure:
    """Decode one object by its content, whatever its name.

    `side`: a JPEG may come at a half, a quarter or an eighth of its scale while neither side is shorter than so many
    pixels, which costs a part of the time; everything that is told of it is about the original all the same.

    Images: EXIF orientation applied, first frame of an animation, 16-bit scaled to 8, transparency over white,
    CMYK and palettes to RGB. Never raises: empty or headless is `unreadable`, no media is `unsupported`, past
    the limits is `too_large` (before a pixel is decoded), a broken body is `decode`.
    """
    if not content:
        return Failure(Cause.UNREADABLE, "the object is empty", Stage.DECODE)
    try:
        return _decode_image(content, limits, side)
    except UnidentifiedImageError:
        return _unidentified(content)
    except MemoryError:
        return Failure(Cause.OUT_OF_MEMORY, "no memory to decode it", Stage.DECODE)
    except Exception as error:  # Pillow raises whatever a broken file leads it into; type and text are kept
        return Failure(Cause.DECODE, f"{type(error).__name__}: {error}"[:500], Stage.DECODE)


def _decode_image(content: bytes, limits: Limits, side: int | None) -> DecodedImage | Failure:
    try:
        opened = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
    except (UnidentifiedImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them into; its text is kept
        return Failure(Cause.UNREADABLE, f"its header makes no sense: {error}"[:500], Stage.DECODE)
    with opened as image:
        if (pixels := image.width * image.height) > limits.max_pixels:
            size = f"{image.width:,} x {image.height:,} pixels"
            return Failure(Cause.TOO_LARGE, f"{size} = {pixels:,}; the limit is {limits.max_pixels:,}", Stage.DECODE)
        width, height = image.size
        # Pillow tells a TIFF's size as it will be when it stands upright.
        if image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation) in _TURNED_ORIENTATIONS:
            width, height = height, width
        if side is not None:
            image.draft(None, (side, side))  # does nothing to other formats
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        rgb = _to_rgb(image)
    return DecodedImage(rgb, width, height, hashlib.sha256(content).hexdigest())


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return 8-bit RGB; transparent pixels show white, deeper greys keep their proportions."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _grey_in_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(white, opaque).convert("RGB")
    return image.convert("RGB")


def _grey_in_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit greys by their full range, and floats or 32-bit ones by the range they use."""
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if image.mode.startswith("I;16") or (image.mode == "I" and 255 < values.max(initial=0) <= 65535):
        values = values / 257.0
    elif image.mode == "F" or values.max(initial=0) > 65535:
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        values = (values - low) * (255.0 / (high - low)) if high > low else values * 0
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _unidentified(content: bytes) -> Failure:
    """Tell a damaged image from what is no image at all."""
    kind = filetype.guess(content[:8192])
    if kind is not None and kind.mime.startswith("image/"):
        message = f"it begins like {kind.mime}, and its header makes no sense or its format is not taken"
        return Failure(Cause.UNREADABLE, message, Stage.DECODE)
    what = kind.mime if kind else "of no known media format"
    return Failure(Cause.UNSUPPORTED, f"the content is {what}; taken are {', '.join(IMAGE_FORMATS)}", Stage.DECODE)
