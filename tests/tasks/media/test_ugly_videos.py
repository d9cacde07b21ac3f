"""Videos as buckets hold them: no times or jumping ones, several streams, sizes that change, frames without end."""

import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from sightflow.schemas.failure import Cause
from sightflow.schemas.policy import Limits
from sightflow.tasks.media import decoding_bounds
from sightflow.tasks.media.read_video import read_frames
from sightflow.tasks.media.video_container import VideoError
from sightflow.tasks.media.video_index import index_video
from tests.videos import MS, number_of, numbered, write_video

FILES = Path(__file__).parent / "files"
LIMITS = Limits()
CONSTANT = [k * 40 for k in range(60)]
B_FRAMES = {"g": "24", "bf": "3"}


def numbers(path: Path, wanted: Any = None) -> dict[int, int]:
    index = index_video(path, LIMITS)
    wanted = range(index.frame_count) if wanted is None else wanted
    return {k: number_of(image) for k, image in read_frames(path, index, wanted)}


def failure(path: Path, limits: Limits = LIMITS) -> Any:
    def read() -> None:
        index = index_video(path, limits)
        list(read_frames(path, index, range(index.frame_count)))

    with pytest.raises(VideoError) as raised:
        read()
    return raised.value.failure


@pytest.mark.parametrize("container", ["avi", "h264", "hevc"])
def test_frames_without_times_come_in_the_order_they_are_shown(tmp_path: Path, container: str) -> None:
    # AVI takes H.264 as a raw stream has it.
    timed = tmp_path / ("source.h264" if container == "avi" else "source.mp4")
    codec = "libx265" if container == "hevc" else "libx264"
    write_video(timed, CONSTANT, options=B_FRAMES, codec=codec)
    path = tmp_path / f"v.{container}"
    with av.open(str(timed)) as source, av.open(str(path), "w", format=container) as out:
        stream: Any = out.add_stream_from_template(source.streams.video[0])
        for count, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.stream, packet.pts, packet.dts = stream, count, count
            packet.time_base, packet.duration = Fraction(1, 25), 1
            out.mux(packet)
    index = index_video(path, LIMITS)
    assert index.frame_count == 60
    assert index.seconds == pytest.approx(np.arange(60) / 25, abs=1e-3)
    assert numbers(path) == {k: k for k in range(60)}
    assert numbers(path, [7, 31, 59]) == {7: 7, 31: 31, 59: 59}


@pytest.mark.parametrize("shown", [CONSTANT, [40 * k + 5000 * (k > 20) for k in range(60)]], ids=["even", "a gap"])
def test_asf_says_when_frames_are_decoded_not_when_they_are_shown(tmp_path: Path, shown: list[int]) -> None:
    path = write_video(tmp_path / "v.wmv", shown, options=B_FRAMES, container="asf")
    assert numbers(path) == {k: k for k in range(60)}
    assert numbers(path, [7, 31, 59]) == {7: 7, 31: 31, 59: 59}


@pytest.mark.parametrize(
    ("codec", "container"), [("mpeg2video", "mpeg2video"), ("mpeg1video", "mpeg1video"), ("mpeg4", "m4v")]
)
def test_raw_streams_of_mpeg_lose_no_frame(tmp_path: Path, codec: str, container: str) -> None:
    options = {"bf": "2", "g": "12", "qscale": "2"}
    with av.open(str(tmp_path / "v"), "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(60):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(k, 64, 48), format="rgb24")))
        out.mux(stream.encode())
    assert numbers(tmp_path / "v") == {k: k for k in range(60)}


@pytest.mark.parametrize("container", ["flv", "asf", "avi", "mp4", "matroska"])
def test_a_video_of_one_frame_has_it(tmp_path: Path, container: str) -> None:
    assert numbers(write_video(tmp_path / "v", [0], container=container)) == {0: 0}


def test_an_avi_with_three_b_frames() -> None:
    path = FILES / "h264_b3.avi"
    index = index_video(path, LIMITS)
    assert index.seconds == pytest.approx(np.arange(40) / 10)
    greys = [np.asarray(image).mean() for _, image in read_frames(path, index, range(40))]
    assert greys == pytest.approx([6 * k for k in range(40)], abs=4)


def test_a_preview_that_is_not_marked_is_not_the_video() -> None:
    index = index_video(FILES / "preview_first.mp4", LIMITS)
    assert (index.width, index.height, index.frame_count) == (64, 48, 40)
    assert len(list(read_frames(FILES / "preview_first.mp4", index, range(40)))) == 40


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize("small", [1, 30], ids=["a still", "a small video"])
def test_the_video_is_the_large_stream_wherever_it_stands(tmp_path: Path, container: str, small: int) -> None:
    path = tmp_path / "v"
    with av.open(str(path), "w", format=container) as out:
        streams: list[Any] = []
        for size in ((16, 16), (64, 48)):
            stream: Any = out.add_stream("libx264", rate=25)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.time_base = stream.codec_context.time_base = MS
            streams.append(stream)
        for k in range(30):
            for stream in streams[0 if k < small else 1 :]:
                frame = av.VideoFrame.from_ndarray(numbered(k, stream.width, stream.height), format="rgb24")
                frame.pts, frame.time_base = k * 40, MS
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode())
    index = index_video(path, LIMITS)
    assert (index.width, index.height, index.frame_count) == (64, 48, 30)
    assert numbers(path) == {k: k for k in range(30)}


@pytest.mark.parametrize("start", [0, 100_000, 3_600_000], ids=["restarts", "jumps by 100 s", "jumps by an hour"])
def test_joined_transport_streams_are_seen_whole(tmp_path: Path, start: int) -> None:
    write_video(tmp_path / "a.ts", CONSTANT[:30], container="mpegts", options=B_FRAMES)
    with av.open(str(tmp_path / "b.ts"), "w", format="mpegts") as out:
        stream: Any = out.add_stream("libx264", rate=30, options=B_FRAMES)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = MS
        for k in range(30):
            frame = av.VideoFrame.from_ndarray(numbered(100 + k, 64, 48), format="rgb24")
            frame.pts, frame.time_base = start + 40 * k, MS
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    path = tmp_path / "joined.ts"
    path.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    index = index_video(path, LIMITS)
    assert list(numbers(path).values()) == [*range(30), *range(100, 130)]
    assert (np.diff(index.seconds) > 0).all() and 2.0 < index.duration < 3.0


def joined(path: Path, *sizes: tuple[int, int]) -> Path:
    content = b""
    for place, size in enumerate(sizes):
        times = [1000 * place + 40 * k for k in range(25)]
        part = write_video(path.with_suffix(f".{place}"), times, container="mpegts", size=size, options={"bf": "0"})
        content += part.read_bytes()
    path.write_bytes(content)
    return path


def test_frames_whose_shape_changes_are_refused_for_good(tmp_path: Path) -> None:
    for path in (FILES / "turn.ts", joined(tmp_path / "v.ts", (64, 48), (48, 64))):
        found = failure(path)
        assert found.cause is Cause.UNSUPPORTED and "64 x 48 to 48 x 64" in found.message


def test_frames_of_another_size_and_the_same_shape_are_scaled(tmp_path: Path) -> None:
    path = joined(tmp_path / "v.ts", (64, 48), (128, 96))
    index = index_video(path, LIMITS)
    frames = dict(read_frames(path, index, range(index.frame_count)))
    assert {image.size for image in frames.values()} == {(64, 48)} == {(index.width, index.height)}
    assert len(frames) == 50 and number_of(frames[49]) == 24


def test_frames_that_grow_past_the_limit_are_never_shown(tmp_path: Path) -> None:
    limits = Limits(max_pixels=64 * 48)
    assert failure(joined(tmp_path / "a.ts", (64, 48), (128, 96)), limits).cause is Cause.TOO_LARGE
    # Far past it, the decoder itself refuses before it takes memory, and they are left out.
    path = joined(tmp_path / "b.ts", (64, 48), (1280, 960))
    index = index_video(path, limits)
    frames = dict(read_frames(path, index, range(index.frame_count)))
    assert {image.size for image in frames.values()} == {(64, 48)}
    assert len(frames) <= 25


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(1, 2)])
def test_pixels_that_are_not_square_are_shown_as_they_look(tmp_path: Path, aspect: Fraction) -> None:
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for k in range(5):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(k, 64, 48), format="rgb24")))
        out.mux(stream.encode())
    index = index_video(path, LIMITS)
    assert (index.width, index.height) == (64 * aspect, 48)
    image: Image.Image
    for k, image in read_frames(path, index, range(5)):
        assert image.size == (index.width, index.height) and number_of(image) == k
    ((_, small),) = read_frames(path, index, [2], 32)
    assert max(small.size) == 32


def broken(path: Path, frames: int, options: dict[str, str]) -> Path:
    """A video whose every frame is broken, each in a packet of its own."""
    write_video(path, [40 * k for k in range(frames)], options=options, size=(32, 32))
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    for pos, size in packets:
        content[pos + 4 : pos + size] = b"\xff" * (size - 4)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("gop", ["1", "12", "9999"])
def test_frames_that_none_can_decode_end_soon(tmp_path: Path, gop: str) -> None:
    path = broken(tmp_path / "v.mp4", 6000, {"g": gop, "bf": "0", "preset": "ultrafast"})
    since = time.monotonic()
    assert failure(path).cause is Cause.DECODE
    assert time.monotonic() - since < 30


def test_a_video_that_gives_no_frame_for_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4", CONSTANT)
    index = index_video(path, LIMITS)
    monkeypatch.setattr(decoding_bounds, "_STALLED_SECONDS", -1.0)
    with pytest.raises(VideoError) as raised:
        list(read_frames(path, index, [50]))
    assert raised.value.failure.cause is Cause.DECODE
    monkeypatch.undo()
    monkeypatch.setattr(decoding_bounds, "_LEAST_SECONDS", -100.0)
    with pytest.raises(VideoError) as raised:
        list(read_frames(path, index, [50]))
    assert raised.value.failure.cause is Cause.TOO_LARGE
