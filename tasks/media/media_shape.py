"""The size of an image and the size, length and sound of a video, from the first bytes of the object."""

from __future__ import annotations

import io
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image

from sightflow.schemas.capability import MediaKind
from sightflow.tasks.media.image_formats import IMAGE_FORMATS
from sightflow.tasks.media.video_container import VideoError, open_video

FIRST_READ, SECOND_READ = 64 * 2**10, 2**20
"""Bytes of an object's beginning that are looked at, and again where these did not say it."""


@dataclass(frozen=True)
class MediaShape:
    """Width and height in pixels, either way round; of a video its length in `seconds`, and whether it has sound."""

    width: int
    height: int
    seconds: float | None = None
    has_sound: bool = True


def media_shape(kind: MediaKind, start: bytes) -> MediaShape | None:
    """What the beginning of an object says of it; None if it does not, or the object is none that is taken."""
    return _of_image(start) if kind is MediaKind.IMAGE else _of_video(start)


def _of_image(start: bytes) -> MediaShape | None:
    try:
        with warnings.catch_warnings():  # what decoding it will say of it is said then
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(start), formats=IMAGE_FORMATS) as image:
                return MediaShape(*image.size)
    except Exception:  # Pillow's plugins raise whatever a broken file leads them into
        return None


def _of_video(start: bytes) -> MediaShape | None:
    with tempfile.NamedTemporaryFile(prefix="sightflow-", suffix=".video") as file:
        file.write(start)
        file.flush()
        return video_file_shape(Path(file.name))


def video_file_shape(path: Path) -> MediaShape | None:
    """As `media_shape`, of a video that lies on this machine."""
    try:
        with open_video(path) as container:
            streams = [stream for stream in container.streams.video if stream.codec_context is not None]
            if not streams or not container.duration:
                return None
            largest = max(streams, key=lambda stream: stream.codec_context.width * stream.codec_context.height)
            width, height = largest.codec_context.width, largest.codec_context.height
            seconds, has_sound = container.duration / av.time_base, bool(container.streams.audio)
    except (VideoError, av.FFmpegError, OSError, ValueError):
        return None
    return MediaShape(width, height, seconds, has_sound) if width and height else None
