"""Which image formats are taken, and the names of those that are not: by content, never by suffix."""

from __future__ import annotations

from typing import Final

import filetype

from sightflow.tasks.media.tiff_directories import DNG_VERSION, PHOTOMETRIC, Directory, read_directories

# The formats that are tried, by content; Pillow knows more, and each more is more to attack.
IMAGE_FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
_CAMERA_RAW: Final = "a camera raw"
# Offset, signature, name. Sources: the formats' own documents, and the magic of file(1).
_SIGNATURES: Final = (
    (0, b"8BPS", "PSD (Photoshop)"),
    (0, b"\0\0\1\0", "ICO (icon)"),
    (0, b"icns", "ICNS (icon)"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"DDS ", "DDS"),
    (0, b"SDPX", "DPX"),
    (0, b"XPDS", "DPX"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"gimp xcf", "XCF (GIMP)"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"qoif", "QOI"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"FLIF", "FLIF"),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG"),
    (0, b"\xabKTX ", "KTX"),
    (0, b"P7\n", "PAM"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (0, b"/* XPM */", "XPM"),
    (0, b"FUJIFILMCCD-RAW", f"{_CAMERA_RAW} (RAF)"),
    (0, b"IIRO", f"{_CAMERA_RAW} (ORF)"),
    (0, b"IIRS", f"{_CAMERA_RAW} (ORF)"),
    (0, b"MMOR", f"{_CAMERA_RAW} (ORF)"),
    (0, b"IIU\0", f"{_CAMERA_RAW} (RW2)"),
    (8, b"CR\2", f"{_CAMERA_RAW} (CR2)"),
    (6, b"HEAPCCDR", f"{_CAMERA_RAW} (CRW)"),
    (0, b"FOVb", f"{_CAMERA_RAW} (X3F)"),
    (0, b"\0MRM", f"{_CAMERA_RAW} (MRW)"),
)
_AVIF: Final = (b"avif", b"avis")
_HEIF: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1")
# Photometric interpretations of sensors: CFA (TIFF/EP) and LinearRaw (DNG).
_SENSOR: Final = (32803, 34892)
_TAKEN_TYPES: Final = frozenset(
    f"image/{name}" for name in ("jpeg", "png", "gif", "webp", "bmp", "x-ms-bmp", "tiff", "avif", "jp2", "jpx")
)


def is_heif_brand(brand: bytes) -> bool:
    """Whether a brand of an ISO base media file (the four bytes after `ftyp`) is of still images: AVIF or HEIC."""
    return brand in _AVIF or brand in _HEIF


def unsupported_format(content: bytes) -> str | None:
    """The name of an image or document format that is known and not taken; None for what is taken or not known."""
    for offset, signature, name in _SIGNATURES:
        if content.startswith(signature, offset):
            return name
    if content.startswith(b"\0\0\2\0"):  # an uncompressed TGA begins so too, with no cursors to count
        return "CUR (cursor)" if any(content[4:6]) else "TGA"
    if content[4:8] == b"ftyp":
        end = min(max(int.from_bytes(content[:4]), 16), 1024)
        brands = [content[8:12], *(content[k : k + 4] for k in range(16, end, 4))]
        if brands[0] == b"crx ":
            return f"{_CAMERA_RAW} (CR3)"
        if not any(brand in _AVIF for brand in brands) and any(brand in _HEIF for brand in brands):
            return "HEIC (HEIF)"
    head = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"<svg") or (head.startswith((b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in head):
        return "SVG"
    return None


def camera_raw(content: bytes) -> str | None:
    """What a TIFF structure is, if its first page is not its picture: a camera raw, or a preview; else None.

    Raws (DNG, NEF, ARW, PEF, ...) begin with a small RGB picture and keep the sensor's values in a SubIFD or a later
    page. A pyramid (COG, OME) keeps its smaller versions there, and a document its further pages.
    """
    if content[:2] not in (b"II", b"MM"):
        return None
    directories = read_directories(content)
    if not directories:
        return None
    first, others = directories[0], directories[1:]
    if DNG_VERSION in first.offsets:
        return f"{_CAMERA_RAW} (DNG)"
    if any(each.value(PHOTOMETRIC) in _SENSOR for each in directories):
        return _CAMERA_RAW
    if any(_larger(each, first) for each in others):
        return "a TIFF whose first page is a preview of another (a camera raw?)"
    return None


def _larger(other: Directory, first: Directory) -> bool:
    """Whether `first` is the preview of `other`."""
    return other.pixels > first.pixels and (other.sub or (first.reduced and not other.reduced))


def media_type(content: bytes) -> tuple[str | None, bool]:
    """The media type that the content begins like, and whether it is an image that is taken here."""
    kind = filetype.guess(content[:8192])
    if kind is None:
        return None, False
    return kind.mime, kind.mime in _TAKEN_TYPES
