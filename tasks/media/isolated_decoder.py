"""Decoding in a process of its own, which can be ended: for the decoder whose memory and time the size does not bound.

A JPEG 2000 of a few kilobytes can ask for a hundred bytes of memory a pixel (precincts of one pixel), and OpenJPEG
cannot be interrupted. The other decoders that read everything before they decode (WebP, AVIF, TIFF) take some bytes a
pixel and seconds for 64 megapixels.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final

from PIL import Image

_SPARE_BYTES: Final = 2**30  # for the interpreter and its libraries
_BYTES_PER_PIXEL: Final = 40  # four components of 32 bits, twice, and the image itself
# No signal, crash or limit of this process is one of ours; the first line is the mode and the size.
_PROGRAM: Final = """
import io, json, sys
from PIL import Image
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, OSError, ValueError):
    pass
Image.MAX_IMAGE_PIXELS = None
image = Image.open(io.BytesIO(sys.stdin.buffer.read()), formats=[sys.argv[1]])
image.load()
sys.stdout.buffer.write(json.dumps([image.mode, image.size]).encode() + b"\\n" + image.tobytes())
"""


class DecoderEnded(Exception):
    """The process was ended, or ended itself; the message says how."""


def decode_isolated(content: bytes, form: str, pixels: int, seconds: float) -> Image.Image:
    """The image that Pillow decodes from `content` as the format `form`, with neither metadata nor palette.

    The process may take 40 bytes for each of so many `pixels`, and a gibibyte. Raises TimeoutError after `seconds`,
    DecoderEnded if it fails otherwise.
    """
    memory = _SPARE_BYTES + _BYTES_PER_PIXEL * pixels
    command = [sys.executable, "-I", "-c", _PROGRAM, form, str(memory)]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise DecoderEnded(last or f"the decoder ended with status {done.returncode}")
    header, _, data = done.stdout.partition(b"\n")
    mode, size = json.loads(header)
    return Image.frombytes(mode, tuple(size), data)
