"""Image or video, told by the first bytes of an object: what its name does not say."""

from __future__ import annotations

import re
from typing import Final

from sightflow.schemas.capability import MediaKind
from sightflow.tasks.media.image_formats import is_heif_brand

START_BYTES: Final = 4096
"""How much of an object is needed."""

# Offset, signature, and a name where the container is not taken. Sources: the formats' own documents, and file(1).
_CONTAINERS: Final = (
    (0, b"\x1a\x45\xdf\xa3", ""),  # Matroska, WebM
    (0, b"FLV\x01", ""),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", ""),  # ASF, WMV
    (0, b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02", ""),  # MXF
    (0, b"DKIF", ""),  # IVF
    (0, b".RMF", "RealMedia"),
    (0, b"\xb7\xd8\x00\x20\x37\x49\xda\x11\xa6\x4e\x00\x07\xe9\x5e\xad\x8d", "WTV"),
    (0, b"nut/multimedia container\0", "NUT"),
    (0, b"YUV4MPEG2 ", "YUV4MPEG2"),
    (0, b"\x1f\x07\x00", "DV"),
    (0, b"BIKi", "Bink"),
    (0, b"FWS", "SWF (Flash)"),
    (0, b"CWS", "SWF (Flash)"),
    (0, b"ZWS", "SWF (Flash)"),
)
# Codecs in the first page of an Ogg stream; others are sound.
_OGG_VIDEO: Final = (b"\x80theora", b"\x01video\0", b"OVP80", b"BBCD\0", b"fishead\0")
_AUDIO_BRANDS: Final = (b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B ")
_STILL_BRANDS: Final = (b"crx ", b"jp2 ", b"jpx ", b"jpm ", b"jxl ")
_QUICKTIME_BOXES: Final = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
# After at least two zero bytes: MPEG program streams and video, H.264 (SPS, AUD) and H.265 (VPS, SPS, AUD).
_START_CODE: Final = re.compile(rb"\0{2,}\x01(?:[\xba\xb3\xb0]|[\x07\x27\x47\x67\x09]|[\x40\x42\x46]\x01)")
# Bytes from one packet of a transport stream to the next: plain, with a time (M2TS), with error correction.
_PACKETS: Final = (188, 192, 204)
_SYNC: Final = 0x47
_LEAST_PACKETS: Final = 3


def media_kind(start: bytes) -> MediaKind:
    """What an object is whose first bytes (`START_BYTES` are enough) are these: a video, or else an image.

    What is neither counts as an image, and reading it says what it is.
    """
    return MediaKind.VIDEO if _is_video(start) else MediaKind.IMAGE


def unsupported_container(start: bytes) -> str | None:
    """The name of a video container that is known and not taken; None for what is taken or not known."""
    return next((name for offset, signature, name in _CONTAINERS if name and start.startswith(signature, offset)), None)


def _is_video(start: bytes) -> bool:
    if any(start.startswith(signature, offset) for offset, signature, _ in _CONTAINERS):
        return True
    if start.startswith(b"RIFF"):
        return start[8:12] in (b"AVI ", b"AVIX", b"AMV ")
    if start.startswith(b"OggS"):
        return any(codec in start for codec in _OGG_VIDEO)
    return _is_quicktime(start) or _START_CODE.match(start) is not None or is_transport_stream(start)


def _is_quicktime(start: bytes) -> bool:
    """MP4, MOV, 3GP and their kin; stills (AVIF, HEIC, JPEG 2000) and sound are boxes of the same form."""
    box = start[4:8]
    if box == b"ftyp":
        brand = start[8:12]
        return not is_heif_brand(brand) and brand not in (*_AUDIO_BRANDS, *_STILL_BRANDS)
    # Old QuickTime begins without `ftyp`. A first byte that is no letter: text may hold these words too.
    return box in _QUICKTIME_BOXES and (box == b"mdat" or start[0] < 0x20)


def is_transport_stream(start: bytes) -> bool:
    """A sync byte at the beginning of every packet, wherever the first whole one begins."""
    for size in _PACKETS:
        for offset in range(min(size, len(start))):
            syncs = start[offset::size]
            if len(syncs) >= _LEAST_PACKETS and syncs.count(_SYNC) == len(syncs) and not _is_one_byte(start):
                return True
    return False


def _is_one_byte(start: bytes) -> bool:
    return start.count(start[:1]) == len(start)
