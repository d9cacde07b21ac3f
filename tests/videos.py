"""Videos for tests, whose frames say their own numbers."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

MS = Fraction(1, 1000)


def numbered(k: int, width: int, height: int) -> np.ndarray:
    """A picture that says its number: eight black or white columns, the bits of k."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for bit in range(8):
        left, right = bit * width // 8, (bit + 1) * width // 8
        image[:, left:right] = 235 if k >> bit & 1 else 16
    return image


def number_of(image: Image.Image) -> int:
    pixels = np.asarray(image.convert("L")).astype(float)
    height, width = pixels.shape
    columns = [pixels[height // 4 : -height // 4 or None, int((b + 0.5) * width / 8)].mean() for b in range(8)]
    return sum(1 << b for b, value in enumerate(columns) if value > 125)


def write_video(
    path: Path,
    times_ms: Sequence[int],
    codec: str = "libx264",
    size: tuple[int, int] = (64, 48),
    container: str | None = None,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation: int = 0,
) -> Path:
    """Write frames that say their numbers, shown at these milliseconds."""
    with av.open(str(path), "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=30, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = MS
        stream.time_base = MS
        if rotation:
            stream.set_display_rotation(rotation)
        for k, moment in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(numbered(k, *size), format="rgb24")
            frame.pts, frame.time_base = moment, MS
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path
