"""Whether an object is a video is told by its bytes where its name does not say it."""

import io
from pathlib import Path

import av
import pytest
from PIL import Image

from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Cause
from sightflow.schemas.policy import Limits
from sightflow.tasks.media.media_kind import START_BYTES, media_kind
from sightflow.tasks.media.video_container import VideoError, open_video
from sightflow.tasks.media.video_index import index_video
from tests.videos import write_video

FILES = Path(__file__).parent / "files"
TIMES = [k * 40 for k in range(10)]


def kind_of(path: Path) -> MediaKind:
    with path.open("rb") as file:
        return media_kind(file.read(START_BYTES))


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        *((each, "libx264") for each in ("mp4", "mov", "3gp", "3g2", "ismv", "matroska", "flv", "mpegts", "h264")),
        *((each, "mpeg2video") for each in ("mpeg", "vob", "svcd", "mpeg2video", "mxf")),
        *((each, "mpeg4") for each in ("avi", "asf", "m4v", "nut")),
        ("hevc", "libx265"),
        ("webm", "libvpx-vp9"),
        ("ivf", "libvpx-vp9"),
        ("ogg", "libtheora"),
        ("rm", "rv20"),
    ],
)
def test_a_video_of_every_container_is_one(tmp_path: Path, container: str, codec: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    times = [round(k * 1001 / 30) for k in range(30)]
    options = {"profile": "0"} if codec == "libvpx-vp9" else {}
    size = (352, 288) if container in ("svcd", "rm", "mxf") else (64, 48)
    with av.open(str(tmp_path / "a"), "w", format=container) as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in times:
            frame = av.VideoFrame.from_image(Image.effect_noise(size, 50).convert("RGB"))
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    assert kind_of(tmp_path / "a") is MediaKind.VIDEO


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.iterdir()))
def test_a_video_of_the_wild_is_one(name: str) -> None:
    assert kind_of(FILES / name) is MediaKind.VIDEO


@pytest.mark.parametrize("skip", [1, 187, 300])
@pytest.mark.parametrize("times", [188, 192])
def test_a_transport_stream_may_begin_anywhere(tmp_path: Path, skip: int, times: int) -> None:
    packets = write_video(tmp_path / "v.ts", TIMES, container="mpegts").read_bytes()
    stream = b"".join(b"\1\2\3\4"[: times - 188] + packets[k : k + 188] for k in range(0, len(packets), 188))
    assert media_kind(stream[skip : skip + START_BYTES]) is MediaKind.VIDEO


def test_a_transport_stream_of_a_few_packets_is_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.ts", [0, 40], container="mpegts")
    assert path.stat().st_size < 3000 and kind_of(path) is MediaKind.VIDEO
    assert index_video(path, Limits()).frame_count == 2


def test_ogg_is_a_video_if_one_of_its_first_streams_is() -> None:
    sound, picture = (b"OggS\0\2" + bytes(22) + codec + bytes(30) for codec in (b"\x01vorbis", b"\x80theora"))
    assert media_kind(sound + picture) is media_kind(picture) is MediaKind.VIDEO


def test_old_quicktime_without_a_file_type_is_a_video() -> None:
    for start in (b"\0\0\0\x08wide\0\0\x10\0mdat", b"\0\1\0\0mdat", b"\0\0\4\0moov\0\0\0\x6cmvhd", b"\x40\0\0\0mdat"):
        assert media_kind(start + bytes(64)) is MediaKind.VIDEO


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"G",
        b"GGGGGGGG" * 500,
        bytes(4096),
        b"the free encyclopedia",
        b"%PDF-1.7",
        b'{"a": 1}',
        b"\0\0\0\x18ftypM4A \0\0\0\0",
        b"\0\0\0\x18ftypavif\0\0\0\0",
        b"\0\0\0\x18ftypheic\0\0\0\0",
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"OggS\0\2" + bytes(22) + b"\x01vorbis",
        b"\0\0\1\0\1\0\x10\x10",
        b"ID3\4\0\0",
    ],
)
def test_what_is_no_video_counts_as_an_image_whose_reading_says_what_it_is(start: bytes) -> None:
    assert media_kind(start) is MediaKind.IMAGE


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_an_image_is_one(form: str) -> None:
    held = io.BytesIO()
    Image.effect_noise((60, 40), 50).convert("RGB").save(held, form)
    assert media_kind(held.getvalue()[:START_BYTES]) is MediaKind.IMAGE


def test_a_container_that_is_not_taken_is_named(tmp_path: Path) -> None:
    path = tmp_path / "clip.bin"
    path.write_bytes(b".RMF\0\0\0\x12\0\1" + bytes(100))
    with pytest.raises(VideoError) as raised:
        open_video(path)
    assert raised.value.failure.cause is Cause.UNSUPPORTED and "RealMedia" in raised.value.failure.message
