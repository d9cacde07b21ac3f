"""Media: an image is decoded or fails with a cause, and a video is indexed and read or fails with one."""

import io
from contextlib import suppress
from pathlib import Path

import av
import pytest
from PIL import Image

from sightflow.schemas.enrichment import FrameSampling
from sightflow.schemas.failure import Failure
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.policy import Limits
from sightflow.tasks.media.decode_image import decode
from sightflow.tasks.media.read_video import read_frames, sampled
from sightflow.tasks.media.video_container import VideoError
from sightflow.tasks.media.video_index import index_video
from tests.fuzz.mutation import fuzz, mutated
from tests.videos import write_video

LIMITS = Limits(max_pixels=1_000_000, max_seconds=600)


def image(form: str, mode: str = "RGB", **options: object) -> bytes:
    content = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new(mode, (16, 12), 77).save(content, form, exif=exif, **options)
    return content.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_an_image_is_decoded_or_fails_with_a_cause(form: str, seconds: float) -> None:
    seeds = [image(form, mode) for mode in ("RGB", "L")]
    if form == "JPEG":
        seeds.append(image(form, progressive=True))

    def read(content: bytes) -> None:
        decoded = decode(content, LIMITS)
        assert isinstance(decoded, DecodedImage | Failure)
        if isinstance(decoded, Failure):
            assert decoded.message

    fuzz(read, mutated(seeds), seconds)


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi", "mpegts", "webm"])
def test_a_video_is_read_or_fails_with_a_cause(container: str, seconds: float, tmp_path: Path) -> None:
    codec = {"avi": "mpeg4", "webm": "libvpx"}.get(container, "libx264")
    good = write_video(tmp_path / "good", range(0, 400, 40), codec=codec, container=container)
    path = tmp_path / "video"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        try:
            index = index_video(path, LIMITS)
        except VideoError:
            return
        assert index.frame_count > 0 and index.duration >= 0
        with suppress(VideoError, av.FFmpegError):  # as `request_batches` takes them
            list(read_frames(path, index, sampled(index, FrameSampling(frames=3))))

    fuzz(read, mutated([good.read_bytes()]), seconds)
