"""Images as buckets hold them: broken metadata, formats that are not taken, raws, deep greys, endless scans."""

import gzip
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sightflow.schemas.failure import Cause, Failure
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.policy import Limits
from sightflow.tasks.media import decode_image
from sightflow.tasks.media.decode_image import decode

SIZE = (60, 40)
RED = (200, 0, 0)


def saved(form: str, image: Image.Image | None = None, **options: Any) -> bytes:
    content = io.BytesIO()
    (image or Image.new("RGB", SIZE, RED)).save(content, form, **options)
    return content.getvalue()


def shown(content: bytes) -> DecodedImage:
    media = decode(content, Limits())
    assert isinstance(media, DecodedImage), media
    return media


def failure(content: bytes) -> Failure:
    media = decode(content, Limits())
    assert isinstance(media, Failure)
    return media


def entry(kind: int, count: int, value: bytes, order: str = "<", tag: int = 0x0112) -> bytes:
    return struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")


def exif(*entries: bytes, order: str = "<") -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(order + "IH", 8, len(entries)) + b"".join(entries) + bytes(4)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_chunks(*chunks: bytes, at_end: bool = False) -> bytes:
    content = saved("PNG")
    place = len(content) - 12 if at_end else 33
    return content[:place] + b"".join(chunks) + content[place:]


def with_segment(marker: int, body: bytes) -> bytes:
    content = saved("JPEG")
    return content[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + content[2:]


ODD_TYPE = entry(2, 4, b"abc", tag=0x0128)  # a unit of resolution, which is a number, as text
BROKEN_EXIF = {
    "no header": b"\0\x08\0\x02\x01\x12\0\x03",
    "outside": b"II*\0\xff\xff\xff\x7f",
    "cut": b"MM\0*\0\0\0\x08\0\x09\x01",
    "empty": b"",
    "odd type": exif(ODD_TYPE),
    "many entries": b"II*\0\x08\0\0\0\xff\xff" + ODD_TYPE * 9,
}


@pytest.mark.parametrize("block", BROKEN_EXIF.values(), ids=list(BROKEN_EXIF))
def test_broken_exif_does_not_cost_the_picture(block: bytes) -> None:
    webp = saved("WEBP", exif=block)
    for content in (with_chunks(chunk(b"eXIf", block)), with_segment(0xE1, b"Exif\0\0" + block), webp):
        media = shown(content)
        assert (media.width, media.height) == media.pixels.size == SIZE


@pytest.mark.parametrize(
    "value", [entry(2, 2, b"\6"), entry(2, 2, b"6"), entry(4, 1, b"\6"), entry(1, 1, b"\6"), entry(7, 1, b"\6")]
)
@pytest.mark.parametrize("odd", [(), (ODD_TYPE,)], ids=["alone", "with a broken one"])
def test_it_stands_upright_whatever_type_the_orientation_is_stored_as(value: bytes, odd: tuple[bytes, ...]) -> None:
    block = exif(value, *odd)
    webp = saved("WEBP", exif=block)
    for content in (with_chunks(chunk(b"eXIf", block)), with_segment(0xE1, b"Exif\0\0" + block), webp):
        media = shown(content)
        assert (media.width, media.height) == media.pixels.size == SIZE[::-1]


def test_it_stands_upright_though_another_chunk_is_broken() -> None:
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**21)))
    media = shown(with_chunks(chunk(b"eXIf", exif(entry(3, 1, b"\0\6", ">"), order=">")), text))
    assert media.pixels.size == (media.width, media.height) == SIZE[::-1]
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    assert shown(with_chunks(chunk(b"iTXt", xmp), text)).pixels.size == SIZE[::-1]


@pytest.mark.parametrize("at_end", [False, True], ids=["before", "behind"])
def test_megabytes_of_text_or_a_broken_profile_do_not_cost_the_picture(at_end: bool) -> None:
    packed = zlib.compress(bytes(2**21))
    for name, body in {
        b"zTXt": b"k\0\0" + packed,
        b"iTXt": b"XML:com.adobe.xmp\0\1\0\0\0" + packed,
        b"iCCP": b"p\0\0" + packed,
        b"tEXt": b"Raw profile type exif\0\nexif\n    4\nnot hexadecimal",
        b"pHYs": b"\0",
        b"gAMA": b"",
        b"acTL": b"\0",
    }.items():
        media = shown(with_chunks(chunk(name, body), at_end=at_end))
        assert media.pixels.getpixel((5, 5)) == RED, name


def test_broken_segments_of_a_jpeg_do_not_cost_the_picture() -> None:
    for marker, body in {
        0xE0: b"JFIF\0",
        0xE1: b"http://ns.adobe.com/xap/1.0/\0<",
        0xE2: b"ICC_PROFILE\0",
        0xED: b"Photoshop 3.0\08BIM\4",
        0xEE: b"Adobe",
        0xFE: b"",
    }.items():
        assert shown(with_segment(marker, body)).pixels.size == SIZE, marker
    assert shown(with_segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff")).pixels.size == SIZE


@pytest.mark.parametrize("compression", [None, "tiff_lzw"], ids=["raw", "lzw"])
def test_broken_tags_of_a_tiff_do_not_cost_the_picture(compression: str | None) -> None:
    info = {270: "words " * 9, 34665: 2**31, 700: b"<x", 33432: "somebody", 34675: b"icc"}
    content = saved("TIFF", tiffinfo=info, compression=compression)
    assert shown(content).pixels.getpixel((5, 5)) == RED
    turned = saved("TIFF", tiffinfo={274: 6, 34665: 2**31}, compression=compression)
    assert shown(turned).pixels.size == SIZE[::-1]
    place = turned.index(struct.pack("<HH", 274, 3)) + 2
    as_text = turned[:place] + struct.pack("<HI", 2, 2) + turned[place + 6 :]
    media = shown(as_text)
    assert media.pixels.size == (media.width, media.height) == SIZE[::-1]


def test_a_broken_body_stays_broken() -> None:
    content = with_chunks(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**21))))
    assert failure(content[: len(content) - 30]).cause is Cause.DECODE


def raw(sensor: int, sub: bool = True, dng: bool = False, flag: int = 1) -> bytes:
    """A TIFF structure with a preview of 16 x 12 in its first directory, and 600 x 400 of `sensor` elsewhere."""

    def directory(place: int, size: tuple[int, int], photometric: int, following: int, *more: tuple[int, int]) -> bytes:
        strip = size[0] * size[1] * (3 if photometric == 2 else 1)
        tags = [(256, size[0]), (257, size[1]), (259, 1), (262, photometric), (273, 500), (278, size[1]), (279, strip)]
        if photometric == 2:
            tags += [(277, 3)]
        tags = sorted([*tags, *more])
        body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in tags)
        return (body + struct.pack("<I", following)).ljust(250, b"\0")

    more = [(254, flag)] + ([(330, 258)] if sub else []) + ([(50706, 0x401)] if dng else [])
    first = directory(8, (16, 12), 2, 0 if sub else 258, *more)
    return b"II*\0\x08\0\0\0" + first + directory(258, (600, 400), sensor, 0) + bytes(600 * 400 * 3)


@pytest.mark.parametrize("sensor", [32803, 34892, 2, 6], ids=["CFA", "LinearRaw", "RGB", "YCbCr"])
@pytest.mark.parametrize("sub", [True, False], ids=["sub", "page"])
@pytest.mark.parametrize("dng", [True, False], ids=["DNG", "no DNG"])
def test_a_camera_raw_is_never_its_preview(sensor: int, sub: bool, dng: bool) -> None:
    found = failure(raw(sensor, sub, dng))
    assert found.cause is Cause.UNSUPPORTED and "raw" in found.message


def test_pages_and_pyramids_are_no_raws() -> None:
    pages = saved("TIFF", save_all=True, append_images=[Image.new("RGB", (300, 200))])
    assert shown(pages).pixels.size == SIZE
    small = saved("TIFF", Image.new("RGB", (300, 200)), save_all=True, append_images=[Image.new("RGB", (30, 20))])
    assert shown(small).pixels.size == (300, 200)


OTHERS = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
    "HEIC of another brand first": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heix" + bytes(200),
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(200),
    "PSD": b"8BPS\0\1" + bytes(200),
    "ICO": b"\0\0\1\0\1\0\x10\x10" + bytes(200),
    "CUR": b"\0\0\2\0\1\0\x10\x10" + bytes(200),
    "TGA": b"\0\0\2" + bytes(9) + b"\x40\0\x40\0\x18\0" + bytes(200),
    "JPEG XL": b"\xff\x0a" + bytes(200),
    "CR2": b"II*\0\x10\0\0\0CR\2\0" + bytes(200),
    "RAF": b"FUJIFILMCCD-RAW " + bytes(200),
    "ORF": b"IIRO\x08\0\0\0" + bytes(200),
    "OpenEXR": b"\x76\x2f\x31\x01" + bytes(200),
    "DICOM": bytes(128) + b"DICM" + bytes(99),
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
}


@pytest.mark.parametrize("name", OTHERS)
def test_formats_that_are_not_taken_are_unsupported_by_their_name(name: str) -> None:
    found = failure(OTHERS[name])
    assert found.cause is Cause.UNSUPPORTED and name.split()[0] in found.message


def pgm(values: np.ndarray, maxval: int) -> bytes:
    height, width = values.shape
    return f"P5 {width} {height} {maxval}\n".encode() + values.astype(">u2").tobytes()


@pytest.mark.parametrize("brightest", [200, 255, 256, 4095, 40_000, 65_535])
def test_deep_greys_keep_the_proportions_that_the_file_declares(brightest: int) -> None:
    values = np.linspace(0, brightest, 256).astype(np.uint16).reshape(16, 16)
    expected = np.rint(values / 257.0)
    deep = Image.fromarray(values)
    for content in (
        pgm(values, 65535),
        saved("PNG", deep),
        saved("TIFF", deep),
        saved("TIFF", deep, compression="lzw"),
    ):
        grey = np.asarray(shown(content).pixels)[..., 0]
        assert np.abs(grey - expected).max() <= 1


def test_a_declared_depth_of_less_than_16_bits_is_kept_to() -> None:
    values = np.array([[0, 100, 1000, 4095]], dtype=np.uint16)
    assert np.asarray(shown(pgm(values, 4095)).pixels)[0, :, 0] == pytest.approx([0, 6, 62, 255], abs=1)


def test_what_libtiff_finds_is_not_on_the_screen(capfd: pytest.CaptureFixture[str]) -> None:
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4"):
        noise = Image.effect_noise((200, 200), 50).convert("1" if compression == "group4" else "RGB")
        content = bytearray(saved("TIFF", noise, compression=compression))
        content[300 : len(content) // 2 : 7] = b"\xff" * len(range(300, len(content) // 2, 7))
        decode(bytes(content), Limits())
    assert capfd.readouterr() == ("", "")


def with_scans(count: int) -> bytes:
    content = saved("JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + content[-2:]


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    found = failure(with_scans(2000))
    assert found.cause is Cause.TOO_LARGE and "scans" in found.message
    assert shown(with_scans(20)).pixels.size == SIZE


def test_scans_of_a_preview_do_not_count() -> None:
    preview = b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 300
    assert shown(with_segment(0xE1, b"Exif\0\0" + preview)).pixels.size == SIZE


def test_an_image_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = saved("PNG", Image.effect_noise((800, 800), 50).convert("RGB"))
    monkeypatch.setattr(decode_image, "_MAX_SECONDS", -1.0)
    found = failure(noise)
    assert found.cause is Cause.TOO_LARGE and "within" in found.message


def test_texts_that_are_whole_are_no_matter() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "words", zip=True)
    assert shown(saved("PNG", pnginfo=info)).pixels.getpixel((0, 0)) == RED
    assert failure(gzip.compress(saved("PNG"))).cause is Cause.UNSUPPORTED
