"""A large JPEG 2000 is decoded where it can be ended: the same pixels, and no memory or time without bound."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightflow.schemas.failure import Cause, Failure
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.policy import Limits
from sightflow.tasks.media import decode_image, isolated_decoder
from sightflow.tasks.media.decode_image import decode


def jpeg_2000(image: Image.Image, **options: Any) -> bytes:
    held = io.BytesIO()
    image.save(held, "JPEG2000", **options)
    return held.getvalue()


@pytest.fixture
def everything_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_image, "_MOST_PIXELS_HERE", 0)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_the_pixels_are_the_same(mode: str, everything_isolated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.effect_noise((70, 50), 90)
    image = Image.fromarray(np.asarray(noise).astype(np.uint16) * 200) if mode == "I;16" else noise.convert(mode)
    content = jpeg_2000(image)
    isolated = decode(content, Limits())
    monkeypatch.setattr(decode_image, "_MOST_PIXELS_HERE", 10**9)
    here = decode(content, Limits())
    assert isinstance(isolated, DecodedImage) and isinstance(here, DecodedImage)
    assert np.array_equal(np.asarray(isolated.pixels), np.asarray(here.pixels))
    assert (isolated.width, isolated.height) == (70, 50)


def test_what_asks_for_more_memory_than_its_pixels_take_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    small = jpeg_2000(Image.new("RGB", (256, 256), "red"), precinct_size=(1, 1), codeblock_size=(4, 4))
    content, side = bytearray(small), struct.pack(">II", 7000, 7000)
    size = content.index(b"\xff\x51")  # the codestream's SIZ: of the image and of its one tile
    content[size + 6 : size + 14] = content[size + 22 : size + 30] = side
    header = content.index(b"ihdr")
    content[header + 4 : header + 12] = side
    monkeypatch.setattr(isolated_decoder, "_BYTES_PER_PIXEL", 8)
    found = decode(bytes(content), Limits())
    assert isinstance(found, Failure) and found.cause is Cause.DECODE


def test_one_that_does_not_end_is_ended(everything_isolated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_decoder, "_PROGRAM", "while True: pass")
    monkeypatch.setattr(decode_image, "_MAX_SECONDS", 0.5)
    found = decode(jpeg_2000(Image.new("RGB", (20, 20))), Limits())
    assert isinstance(found, Failure) and found.cause is Cause.TOO_LARGE


def test_one_that_crashes_costs_nobody_else(everything_isolated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_decoder, "_PROGRAM", "import os; os.kill(os.getpid(), 11)")
    found = decode(jpeg_2000(Image.new("RGB", (20, 20))), Limits())
    assert isinstance(found, Failure) and found.cause is Cause.DECODE and "ended" in found.message
