"""Bytes become upright RGB pixels, or a failure with its cause. Media are hostile input."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import time
import warnings
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError, _imaging

from sightflow.schemas.failure import Cause, Failure, Stage
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.policy import Limits
from sightflow.tasks.media.image_formats import IMAGE_FORMATS, camera_raw, media_type, unsupported_format
from sightflow.tasks.media.image_metadata import SIDEWAYS, UPRIGHT, jpeg_segments, orientation, without_metadata
from sightflow.tasks.media.isolated_decoder import decode_isolated
from sightflow.tasks.media.tiff_directories import ORIENTATION, PHOTOMETRIC, orientation_of
from sightflow.tasks.memory.allocator import keep_little
from sightflow.tasks.memory.pixel_budget import NeverFits, NoRoom

# Pillow's own guard raises at open; here the size is read from the header and told in the failure.
Image.MAX_IMAGE_PIXELS = None
Image.init()
# Pillow takes pixels in blocks of 16 MiB, which glibc would keep: gigabytes over the threads of a shard. Larger ones go
# back to the system.
_imaging.set_block_size(64 * 2**20)
keep_little()  # for a process that is no command of ours
# What is wrong with metadata is nobody's concern here, and would be written on the screen.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# A progressive JPEG has some ten scans. Each costs a pass over all its pixels, and may be a few bytes long.
_MAX_SCANS: Final = 100
# Checked as a decoder reads on. One that has read everything (WebP, AVIF, TIFF by libtiff) cannot be interrupted.
_MAX_SECONDS: Final = 60.0
# What is held at once for a pixel: an image of 4 bytes and its copy; with transparency its RGBA, white, and both
# of them composed; of deeper greys arrays of floats.
_WORKING_BYTES: Final = 8
_MORE_WORKING_BYTES: Final = 24
# A JPEG 2000 of more pixels is decoded in a process of its own: see `isolated_decoder`.
_MOST_PIXELS_HERE: Final = 4_000_000
_BITS: Final = 258  # tags of TIFF
_SAMPLE_FORMAT: Final = 339


def _silence_libtiff() -> None:
    """Keep libtiff's own words about broken files off the screen; what it raises through Pillow is told all the same.

    Pillow takes libtiff's handler of warnings away and leaves that of errors. The symbol is found through the module
    that is linked with libtiff; where it is hidden (a static build), the words stay.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


_silence_libtiff()


class _OutOfTime(Exception):
    """An image took longer than is allowed."""


_NOT_OF_THE_FILE: Final = (MemoryError, _OutOfTime, CancelledError, NeverFits, NoRoom)


class _Content(io.BytesIO):
    """The bytes of an image, which decoders read block by block."""

    def limit_seconds(self) -> None:
        """From now on reading raises _OutOfTime at the deadline; the many small reads of opening are not timed."""
        deadline, read = time.monotonic() + _MAX_SECONDS, self.read

        def timed(size: int | None = -1, /) -> bytes:
            if time.monotonic() > deadline:
                raise _OutOfTime
            return read(size)

        self.__dict__["read"] = timed


def decode(
    content: bytes, limits: Limits, side: int | None = None, reserve: Callable[[int], None] | None = None
) -> DecodedImage | Failure:
    """Decode one object by its content, whatever its name.

    `side`: a JPEG may come at a half, a quarter or an eighth of its scale while neither side is shorter than so many
    pixels, which costs a part of the time; everything that is told of it is about the original all the same.
    `reserve`: called with the bytes of memory that decoding takes at most, before a pixel is decoded; it may wait.
    NeverFits, which it may raise, is `too_large`; CancelledError and NoRoom are raised here.

    Images: EXIF orientation applied, first frame of an animation, 16-bit scaled to 8, transparency over white,
    CMYK and palettes to RGB. Broken metadata cost nothing but themselves. Raises nothing else: empty or headless is
    `unreadable`; no media, a camera raw, or a format that is not taken is `unsupported`; past the limits is
    `too_large` (pixels and scans before a pixel is decoded, 60 seconds meanwhile); a broken body is `decode`.
    """
    if not content:
        return Failure(Cause.UNREADABLE, "the object is empty", Stage.DECODE)
    if raw := camera_raw(content):
        return _unsupported(raw)
    try:
        if content[:2] == b"\xff\xd8" and (scans := _scans(content)) > _MAX_SCANS:
            return Failure(Cause.TOO_LARGE, f"a JPEG of {scans:,} scans; the limit is {_MAX_SCANS}", Stage.DECODE)
        return _decode_image(content, limits, side, reserve)
    except UnidentifiedImageError:
        return _refused(content, None)
    except MemoryError:
        return Failure(Cause.OUT_OF_MEMORY, "no memory to decode it", Stage.DECODE)
    except _OutOfTime:
        return Failure(Cause.TOO_LARGE, f"not decoded within {_MAX_SECONDS:.0f} s", Stage.DECODE)
    except NeverFits as error:
        return Failure(Cause.TOO_LARGE, str(error), Stage.DECODE)
    except (CancelledError, NoRoom):
        raise
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them into
        return Failure(Cause.DECODE, f"{type(error).__name__}: {error}"[:500], Stage.DECODE)


def _decode_image(
    content: bytes, limits: Limits, side: int | None, reserve: Callable[[int], None] | None
) -> DecodedImage | Failure:
    """Decode the content and, where that fails, once more without its metadata."""
    digest = hashlib.sha256(content).hexdigest()
    failed: Exception | None = None
    opened: Image.Image | None = None
    try:
        opened = _opened(content)
        turned = orientation_of(content) or 1 if opened.format == "TIFF" else orientation(opened)
        return _decoded(opened, turned, digest, limits, side, reserve)
    except _NOT_OF_THE_FILE:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them into; kept for the message
        # The pixels of a JPEG are read by a library that passes its metadata over.
        if opened is not None and opened.format in ("JPEG", "MPO"):
            raise
        failed = error
    finally:
        if opened is not None:
            opened.close()
    if (bare := without_metadata(content)) is not None:
        again: Image.Image | None = None
        try:
            again = _opened(bare[0])
            return _decoded(again, bare[1], digest, limits, side, reserve)
        except _NOT_OF_THE_FILE:
            raise
        except Exception:  # no header even without metadata: told below, with the first error
            if again is not None:
                raise
        finally:
            if again is not None:
                again.close()
    if opened is None:
        return _refused(content, failed)
    raise failed


def _opened(content: bytes) -> Image.Image:
    return Image.open(_Content(content), formats=IMAGE_FORMATS)


def _decoded(
    image: Image.Image,
    turned: int,
    digest: str,
    limits: Limits,
    side: int | None,
    reserve: Callable[[int], None] | None,
) -> DecodedImage | Failure:
    """Decode an opened image whose orientation is `turned`."""
    if (pixels := image.width * image.height) > limits.max_pixels:
        size = f"{image.width:,} x {image.height:,} pixels"
        return Failure(Cause.TOO_LARGE, f"{size} = {pixels:,}; the limit is {limits.max_pixels:,}", Stage.DECODE)
    tags = getattr(image, "tag_v2", None)
    if image.format == "TIFF" and tags is not None:
        # Pillow turns a TIFF upright as it loads it, and tells its size as it will be then.
        own = tags.get(ORIENTATION)
        turned = 1 if own in UPRIGHT else turned
    width, height = image.size
    if turned in SIDEWAYS:
        width, height = height, width
    if side is not None:
        image.draft(None, (side, side))  # does nothing to other formats
    isolated = image.format == "JPEG2000" and pixels > _MOST_PIXELS_HERE
    if reserve is not None:
        plain = not isolated and image.mode in ("RGB", "L", "CMYK", "1") and "transparency" not in image.info
        reserve((_WORKING_BYTES if plain else _MORE_WORKING_BYTES) * image.width * image.height)
    depth = _depth(image)
    stream = getattr(image, "fp", None)
    if isinstance(stream, _Content):
        stream.limit_seconds()
    if isolated and isinstance(stream, _Content):
        image = _isolated(image, stream.getvalue())
    image.load()
    rgb = _to_rgb(image, depth)
    if turned in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[turned])
    return DecodedImage(rgb, width, height, digest)


def _isolated(image: Image.Image, content: bytes) -> Image.Image:
    """The pixels of an opened image, decoded in a process of its own."""
    try:
        loaded = decode_isolated(content, str(image.format), image.width * image.height, _MAX_SECONDS)
    except TimeoutError:
        raise _OutOfTime from None
    loaded.info.update({key: image.info[key] for key in ("transparency",) if key in image.info})
    return loaded


def _scans(content: bytes) -> int:
    """How many scans of a JPEG are decoded; scans in a preview that its metadata hold do not count.

    Where the first scan of a sequential JPEG has all the components, it is the only one that is decoded.
    """
    components, progressive = 0, False
    for marker, place, _ in jpeg_segments(content):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header
            progressive = marker & 3 == 2
            components = content[place + 9] if place + 9 < len(content) else 0
        elif marker == 0xDA:
            if not progressive and content[place + 4 : place + 5] == bytes([components]):
                return 1
            break
    if (most := content.count(b"\xff\xda")) <= _MAX_SCANS:
        return most
    return sum(marker == 0xDA for marker, _, _ in jpeg_segments(content))


def _to_rgb(image: Image.Image, depth: tuple[int, bool] | None) -> Image.Image:
    """Return 8-bit RGB; transparent pixels show white, deeper greys keep their proportions."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _grey_in_8_bits(image, depth)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(white, opaque).convert("RGB")
    return image.convert("RGB")


def _depth(image: Image.Image) -> tuple[int, bool] | None:
    """The value that the file declares to be white, and whether greys are inverted; None where it declares none.

    PNG and JPEG 2000: 16 bits, whatever the values are. PGM: Pillow scales from the file's maxval to 16 bits. TIFF:
    BitsPerSample, of which a signed image has one less. Floats and 32-bit integers declare no white.
    """
    if not image.mode.startswith("I"):
        return None
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = tags.get(_BITS, (16,))[0]
        signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
        return None if bits > 16 else (2 ** (bits - signed) - 1, tags.get(PHOTOMETRIC) == 0)
    return 65535, False


def _grey_in_8_bits(image: Image.Image, depth: tuple[int, bool] | None) -> Image.Image:
    """Scale greys by the depth that the file declares, and floats or 32-bit integers by the range they use."""
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if depth is not None:
        white, inverted = depth
        values = values * (255.0 / white)
        values = 255.0 - values if inverted else values
    elif image.mode == "F" or values.max(initial=0) > 255:
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        values = (values - low) * (255.0 / (high - low)) if high > low else values * 0
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _unsupported(what: str) -> Failure:
    return Failure(Cause.UNSUPPORTED, f"the content is {what}; taken are {', '.join(IMAGE_FORMATS)}", Stage.DECODE)


def _refused(content: bytes, error: Exception | None) -> Failure:
    """Tell a damaged image from a format that is not taken and from what is no image at all."""
    if name := unsupported_format(content):
        return _unsupported(name)
    if error is not None and not isinstance(error, UnidentifiedImageError):
        return Failure(Cause.UNREADABLE, f"its header makes no sense: {error}"[:500], Stage.DECODE)
    name, taken = media_type(content)
    if taken:
        return Failure(Cause.UNREADABLE, f"it begins like {name}, and its header makes no sense", Stage.DECODE)
    return _unsupported(name or "of no known media format")
