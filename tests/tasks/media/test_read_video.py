"""Reading videos: the frames are the right ones, whatever the stream is like, and hostile files fail with a cause."""

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sightflow.schemas.enrichment import FrameSampling
from sightflow.schemas.failure import Cause
from sightflow.schemas.policy import Limits
from sightflow.tasks.media.read_video import read_frames, sampled
from sightflow.tasks.media.video_container import VideoError
from sightflow.tasks.media.video_index import index_video
from tests.videos import number_of, write_video

LIMITS = Limits()
CONSTANT = [k * 40 for k in range(120)]
VARIABLE = [int(v) for v in np.cumsum(np.random.default_rng(1).integers(10, 300, 120))]
GOP = {"g": "24", "bf": "2"}
OPEN_GOP = {"g": "24", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}
HEVC = {"x265-params": "log-level=none:keyint=24"}
KINDS: dict[str, dict[str, Any]] = {
    "constant": {"times_ms": CONSTANT, "options": {"g": "24", "bf": "0"}},
    "b-frames": {"times_ms": CONSTANT, "options": {"g": "24", "bf": "3"}},
    "open gop": {"times_ms": CONSTANT, "options": OPEN_GOP},
    "one keyframe": {"times_ms": CONSTANT, "options": {"g": "999", "bf": "2"}},
    "variable rate": {"times_ms": VARIABLE, "options": GOP},
    "does not start at zero": {"times_ms": [m + 5000 for m in VARIABLE], "options": GOP},
    "10 bit": {"times_ms": CONSTANT, "codec": "libx265", "pix_fmt": "yuv420p10le", "options": HEVC},
    "odd sizes": {"times_ms": CONSTANT, "size": (67, 41), "pix_fmt": "yuv444p", "options": {"g": "24"}},
    "vp9 in webm": {"times_ms": VARIABLE, "codec": "libvpx-vp9", "container": "webm", "options": {"g": "24"}},
    "matroska": {"times_ms": VARIABLE, "container": "matroska", "options": GOP},
    "mpeg-ts": {"times_ms": VARIABLE, "container": "mpegts", "options": GOP},
    "avi": {"times_ms": CONSTANT, "codec": "mpeg4", "container": "avi", "options": {"g": "24"}},
}


@pytest.fixture(scope="module", params=KINDS, ids=list(KINDS))
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "video.mp4", **KINDS[request.param])


def brute_force(path: Path) -> list[int]:
    """The numbers that all frames say, decoded one after the other from the start."""
    with av.open(str(path)) as container:
        frames = sorted(container.decode(video=0), key=lambda frame: frame.pts)
        return [number_of(frame.to_image()) for frame in frames]


def test_the_index_counts_every_frame_and_its_time(video: Path) -> None:
    index = index_video(video, LIMITS)
    assert index.frame_count == 120
    assert index.seconds[0] == 0
    assert brute_force(video) == list(range(120))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 119), min_size=1, max_size=9))
def test_every_frame_asked_for_is_the_right_one(video: Path, wanted: list[int]) -> None:
    index = index_video(video, LIMITS)
    got = [(k, number_of(image)) for k, image in read_frames(video, index, wanted)]
    assert got == [(k, k) for k in sorted(set(wanted))]


def test_times_of_a_variable_rate_are_those_of_the_stream(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [m + 700 for m in VARIABLE], options={"bf": "2"})
    index = index_video(path, LIMITS)
    expected = (np.array(VARIABLE) - VARIABLE[0]) / 1000
    assert index.seconds == pytest.approx(expected, abs=0.002)
    assert index.frame_at(float(expected[50]) + 0.004) == 50


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation_is_applied(tmp_path: Path, rotation: int) -> None:
    path = write_video(tmp_path / "v.mp4", CONSTANT[:5], rotation=rotation)
    index = index_video(path, LIMITS)
    assert (index.width, index.height) == ((64, 48) if rotation % 180 == 0 else (48, 64))
    (_, image), *_ = read_frames(path, index, [1])
    assert image.size == (index.width, index.height)
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0))
        assert int(stored.rotation) % 360 == index.rotation
    bright = np.asarray(image.convert("L")) > 125
    # Frame 1 has its first column bright; turned counter-clockwise by `rotation`, that side is found here.
    side = {0: bright[:, 0], 90: bright[-1, :], 180: bright[:, -1], 270: bright[0, :]}[index.rotation]
    assert side.mean() > 0.9


class TestSampling:
    def index(self, tmp_path: Path) -> Any:
        options = {"g": "24", "sc_threshold": "0"}
        return index_video(write_video(tmp_path / "v.mp4", CONSTANT, options=options), LIMITS)

    def test_uniform_takes_the_middle_of_equal_parts(self, tmp_path: Path) -> None:
        assert sampled(self.index(tmp_path), FrameSampling(frames=4)) == [15, 45, 75, 105]

    def test_fps_starts_at_the_start(self, tmp_path: Path) -> None:
        assert sampled(self.index(tmp_path), FrameSampling(fps=1)) == [0, 25, 50, 75, 100]

    def test_keyframes_are_the_frames_stored_whole(self, tmp_path: Path) -> None:
        assert sampled(self.index(tmp_path), FrameSampling(keyframes=True)) == [0, 24, 48, 72, 96]

    def test_a_range_of_seconds_bounds_them_all(self, tmp_path: Path) -> None:
        index = self.index(tmp_path)
        assert sampled(index, FrameSampling(fps=5, start=1, end=2)) == [25, 30, 35, 40, 45]
        assert sampled(index, FrameSampling(frames=2, start=1, end=2)) == [31, 43]
        assert sampled(index, FrameSampling(frames=2, start=99)) == []

    def test_more_frames_than_there_are_is_all_of_them(self, tmp_path: Path) -> None:
        assert sampled(self.index(tmp_path), FrameSampling(frames=4000)) == list(range(120))


def cause_of(path: Path, limits: Limits = LIMITS) -> Cause:
    def read() -> None:
        index = index_video(path, limits)
        list(read_frames(path, index, range(index.frame_count)))

    with pytest.raises(VideoError) as raised:
        read()
    return raised.value.failure.cause


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [0])
    index = index_video(path, LIMITS)
    assert index.frame_count == 1
    assert [k for k, _ in read_frames(path, index, sampled(index, FrameSampling(frames=8)))] == [0]


def test_sound_without_pictures_is_unsupported(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    assert cause_of(path) is Cause.UNSUPPORTED


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"words, not pictures" * 99])
def test_what_is_no_video_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    assert cause_of(path) is Cause.UNREADABLE


def test_a_header_without_a_frame_is_unreadable(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "w.mkv", CONSTANT[:30]).read_bytes()
    path = tmp_path / "v.mkv"
    path.write_bytes(whole[: whole.index(b"\x1f\x43\xb6\x75")])  # up to the first Matroska cluster
    assert cause_of(path) is Cause.UNREADABLE


def test_an_mp4_cut_before_its_index_is_unreadable(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "w.mp4", CONSTANT).read_bytes()
    path = tmp_path / "v.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    assert cause_of(path) is Cause.UNREADABLE


def test_a_stream_cut_short_gives_the_frames_it_has(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "w.ts", CONSTANT, container="mpegts", options={"g": "12"}).read_bytes()
    path = tmp_path / "v.ts"
    path.write_bytes(whole[: len(whole) // 2])
    index = index_video(path, LIMITS)
    assert 10 < index.frame_count < 115
    frames = dict(read_frames(path, index, range(index.frame_count)))
    assert all(number_of(image) == k for k, image in list(frames.items())[:-6])
    assert len(frames) >= index.frame_count - 3


def test_a_broken_frame_in_the_middle_costs_itself_and_what_is_built_on_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", CONSTANT, options={"g": "12", "bf": "0"})
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    pos, size = packets[60]
    content[pos + 4 : pos + size] = b"\xff" * (size - 4)
    path.write_bytes(content)
    index = index_video(path, LIMITS)
    good = [k for k in range(120) if not 60 <= k < 72]
    frames = dict(read_frames(path, index, good))
    assert sorted(frames) == good
    assert all(number_of(image) == k for k, image in frames.items())


def test_limits_are_checked_before_a_frame_is_decoded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", CONSTANT, size=(320, 240))
    assert cause_of(path, Limits(max_pixels=320 * 240 - 1)) is Cause.TOO_LARGE
    assert cause_of(path, Limits(max_seconds=4.5)) is Cause.TOO_LARGE


def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    write_video(tmp_path / "inner.ts", CONSTANT, container="mpegts")
    path = tmp_path / "v.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:4.8,\ninner.ts\n#EXT-X-ENDLIST\n")
    assert cause_of(path) is Cause.UNREADABLE


def test_pictures_named_as_videos_are_not_videos(tmp_path: Path) -> None:
    for suffix in ("GIF", "JPEG", "PNG"):
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32), "red").save(buffer, suffix)
        path = tmp_path / f"{suffix}.mp4"
        path.write_bytes(buffer.getvalue())
        assert cause_of(path) is Cause.UNREADABLE
