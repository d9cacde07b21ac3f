"""The metadata of images: what turns a picture upright is read from it, and nothing in it may cost the picture.

Pillow reads EXIF, XMP, ICC profiles and texts as it opens a file, and gives up on the whole file where one is broken.
Such a file is opened again without them.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final

from PIL import Image

from sightflow.tasks.media.tiff_directories import ORIENTATION, header, orientation_of, read_directories

# EXIF orientations (CIPA DC-008, 4.6.4) and how the picture is turned upright.
UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS: Final = (5, 6, 7, 8)  # orientations in which rows are columns
_XMP: Final = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])")
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS: Final = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_TEXTS: Final = (b"tEXt", b"zTXt", b"iTXt")
_MOST_TEXT: Final = 2**20
_WEBP_METADATA: Final = (b"EXIF", b"XMP ", b"ICCP")
# TIFF tags that say nothing about how the pixels are stored: texts, XMP, and all private ones (EXIF, GPS, ICC).
_TIFF_TEXTS: Final = frozenset({269, 270, 271, 272, 285, 305, 306, 315, 316, 333, 700})
_TIFF_PRIVATE: Final = 32768


def orientation(image: Image.Image) -> int:
    """The orientation, 1 to 8, that an opened image has in its EXIF or, without one there, in its XMP; else 1."""
    info = image.info
    if not info:
        return 1
    exif = info.get("exif")
    if exif is None and "Raw profile type exif" in info:
        exif = _raw_profile(info["Raw profile type exif"])
    found = orientation_of(exif) if isinstance(exif, bytes) else None
    return found or _xmp_orientation(info.get("XML:com.adobe.xmp") or info.get("xmp")) or 1


def without_metadata(content: bytes) -> tuple[bytes, int] | None:
    """The same image without what is no pixel, and the orientation that could be read; None for other formats."""
    if content.startswith(b"\xff\xd8\xff"):
        return _jpeg(content)
    if content.startswith(_PNG):
        return _png(content)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return _webp(content)
    if content[:2] in (b"II", b"MM"):
        return _tiff(content)
    if content[4:8] == b"ftyp" and b"Exif\0" in content[: 2**16]:
        # In AVIF the items are listed by type before the pixels; one of an unknown type is passed over.
        return content[: 2**16].replace(b"Exif\0", b"none\0") + content[2**16 :], 1
    return None


def jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker, start and end of each segment of a JPEG (ITU T.81, annex B); entropy-coded data are passed over.

    A scan (marker 0xDA) ends where its own header does. Ends where the structure does.
    """
    place = 2
    while 0 <= (place := content.find(b"\xff", place)) < len(content) - 3:
        marker = content[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker == 0 or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # stuffing, and markers without a length
            place += 2
        elif marker == 0xD9:
            return
        else:
            end = place + 2 + int.from_bytes(content[place + 2 : place + 4])
            yield marker, place, end
            place = end


def _jpeg(content: bytes) -> tuple[bytes, int]:
    kept, found, start = [content[:2]], None, 2
    for marker, place, end in jpeg_segments(content):
        start = place
        if marker == 0xDA:
            break
        segment = content[place:end]
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0":
            found = found or orientation_of(segment[10:])
        elif marker == 0xE1:
            found = found or _xmp_orientation(segment)
        # Whole APP0 (JFIF) and APP14 (Adobe) say what the components mean.
        meaning = marker in (0xE0, 0xEE) and len(segment) >= 14
        if meaning or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(segment)
        start = end
    return b"".join((*kept, content[start:])), found or 1


def _png(content: bytes) -> tuple[bytes, int]:
    kept, exif, xmp, place = [_PNG], None, None, 8
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4])
        name = content[place + 4 : place + 8]
        if name in _PNG_PIXELS:
            kept.append(content[place:end])
        elif name == b"eXIf":
            exif = exif or orientation_of(content[place + 8 : end - 4])
        elif name in _PNG_TEXTS and end - place <= _MOST_TEXT:
            keyword, text = _png_text(name, content[place + 8 : end - 4])
            if keyword == b"XML:com.adobe.xmp":
                xmp = xmp or _xmp_orientation(text)
            elif keyword == b"Raw profile type exif":
                exif = exif or orientation_of(_raw_profile(text.decode("latin-1")))
        place = end
    return b"".join((*kept, content[place:])), exif or xmp or 1


def _png_text(name: bytes, chunk: bytes) -> tuple[bytes, bytes]:
    """Keyword and text of a chunk, the text at most a mebibyte of it (PNG 3rd edition, 11.3.3)."""
    keyword, _, text = chunk.partition(b"\0")
    compressed = name == b"zTXt"
    if name == b"iTXt":
        compressed = text[:1] == b"\1"
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif compressed:
        text = text[1:]
    if compressed and keyword in (b"XML:com.adobe.xmp", b"Raw profile type exif"):
        try:
            text = zlib.decompressobj().decompress(text, _MOST_TEXT)
        except zlib.error:
            text = b""
    return keyword, text


def _webp(content: bytes) -> tuple[bytes, int]:
    kept, found, place = [], None, 12
    while place + 8 <= len(content):
        name, size = content[place : place + 4], int.from_bytes(content[place + 4 : place + 8], "little")
        end = place + 8 + size + size % 2
        chunk = content[place:end]
        if name == b"EXIF":
            found = orientation_of(chunk[8:]) or found
        elif name == b"XMP ":
            found = found or _xmp_orientation(chunk)
        if name == b"VP8X" and len(chunk) > 8:  # its flags of ICC profile, EXIF and XMP
            chunk = chunk[:8] + bytes([chunk[8] & ~0x2C]) + chunk[9:]
        if name not in _WEBP_METADATA:
            kept.append(chunk)
        place = end
    body = b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body, found or 1


def _tiff(content: bytes) -> tuple[bytes, int] | None:
    """Every entry of the first directory that is no matter of pixels becomes a private one of a single byte."""
    found, directories = header(content), read_directories(content)
    if found is None or not directories:
        return None
    order, big, _ = found
    empty = struct.pack(order + ("HHQQ" if big else "HHII"), 65535, 1, 1, 0)
    changed = bytearray(content)
    for tag, place in directories[0].offsets.items():
        if tag in _TIFF_TEXTS or tag >= _TIFF_PRIVATE or tag == ORIENTATION:
            changed[place : place + len(empty)] = empty
    return bytes(changed), orientation_of(content) or 1


def _xmp_orientation(xmp: bytes | str | None) -> int | None:
    if not xmp:
        return None
    found = _XMP.search(xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp)
    return int(found[1]) if found else None


def _raw_profile(text: str) -> bytes:
    """An EXIF block as ImageMagick writes it into a PNG: a name, a length, and hexadecimal digits."""
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return b""
