"""Videos through the whole flow: decoded once, every enrichment a row, ugly files with their causes, bounded memory."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.flows.enrich import enrich
from sightflow.schemas.run.report import RunReport
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.media import video_batches as batch
from tests.videos import write_video

pytestmark = pytest.mark.usefixtures("prefect_server")
ASKED = [
    {"capability": "video captioning", "name": "caption", "sampling": {"frames": 4}},
    {"capability": "vqa", "name": "answer", "question": "what?", "sampling": {"frames": 6}},
    {"capability": "object detection", "name": "objects", "labels": ["dark"], "sampling": {"fps": 5}},
    {"capability": "object tracking", "name": "tracks", "labels": ["dark"], "sampling": {"fps": 5}},
    {"capability": "image captioning", "name": "picture"},
]
SQUARE = 40


def moving_square(path: Path, frames: int = 30, step: int = 4) -> Path:
    """A dark square on white that moves right, 10 frames a second, 320 x 120 pixels."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=10, options={"crf": "10", "g": "10"})
        stream.width, stream.height, stream.pix_fmt = 320, 120, "yuv420p"
        for k in range(frames):
            pixels = np.full((120, 320, 3), 255, dtype=np.uint8)
            pixels[40 : 40 + SQUARE, 20 + step * k : 20 + step * k + SQUARE] = 10
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())
    return path


def rows(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    frame = Catalog(uri=read_spec(path).catalog).scan("enrichments").collect()
    found = {(r["uri"].rpartition("/")[2], r["enrichment"]): r for r in frame.iter_rows(named=True)}
    assert len(found) == frame.height
    return found


def causes(path: Path) -> dict[str, set[str]]:
    frame = Catalog(uri=read_spec(path).catalog).scan("quarantine").collect()
    found: dict[str, set[str]] = {}
    for row in frame.iter_rows(named=True):
        found.setdefault(row["uri"].rpartition("/")[2], set()).add(row["cause"])
    return found


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    return folder


def test_a_video_is_decoded_once_for_all_that_is_asked_of_it(
    bucket: Any, tmp_path: Path, write_spec: Any, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    decoded: Counter[int] = Counter()
    read = batch.read_frames

    def counted(path: Path, *rest: Any) -> Iterator[tuple[int, Image.Image]]:
        opened.append(str(path))
        for number, image in read(path, *rest):
            decoded[number] += 1
            yield number, image

    monkeypatch.setattr(batch, "read_frames", counted)
    bucket.put("films/a b.mp4", moving_square(tmp_path / "a.mp4").read_bytes())
    buffer = tmp_path / "still.png"
    Image.new("RGB", (20, 10), (200, 0, 0)).save(buffer)
    bucket.put("films/still.png", buffer.read_bytes())
    path = write_spec(f"s3://{bucket.name}/films/**", enrichments=ASKED, store={"endpoint_url": bucket.endpoint})
    report: RunReport = enrich(read_spec(path))
    found = rows(path)
    assert len(opened) == 1 and set(decoded.values()) == {1}
    # 15 frames are asked for twice, and those in the middles of 4 and of 6 parts.
    assert len(decoded) < 15 + 4 + 6
    assert report.published == 4 + 3 and not report.quarantined  # the picture: answer, objects, picture
    assert {name for file, name in found if file == "still.png"} == {"answer", "objects", "picture"}
    row = found["a b.mp4", "tracks"]
    assert (row["media_kind"], row["width"], row["height"], round(row["duration"], 2)) == ("video", 320, 120, 3.0)
    assert not Path(opened[0]).exists()  # what was downloaded is gone
    again = enrich(read_spec(path))
    assert (again.published, again.commits, len(opened)) == (0, 0, 1)


def test_boxes_and_tracks_are_where_and_when_the_object_is(media: Path, write_spec: Any, stand_in: Any) -> None:
    moving_square(media / "a.mp4")
    path = write_spec(f"{media}/*", enrichments=ASKED[2:4])
    enrich(read_spec(path))
    found = rows(path)
    regions = found["a.mp4", "objects"]["regions"]
    assert [r["frame_index"] for r in regions] == list(range(0, 30, 2))
    for region in regions:
        assert region["seconds"] == pytest.approx(region["frame_index"] / 10)
        assert region["x_min"] == pytest.approx(20 + 4 * region["frame_index"], abs=2)
        assert region["x_max"] - region["x_min"] == pytest.approx(SQUARE, abs=3)
    (track,) = found["a.mp4", "tracks"]["tracks"]
    assert [(p["frame_index"], p["x_min"]) for p in track["points"]] == [
        (r["frame_index"], r["x_min"]) for r in regions
    ]


def test_more_frames_than_are_shown_at_once_come_out_the_same(media: Path, write_spec: Any, stand_in: Any) -> None:
    moving_square(media / "a.mp4", frames=60, step=3)
    results = []
    for most in (64, 20):
        sampling = {"fps": 10, "max_frames": most}
        path = write_spec(
            f"{media}/*",
            catalog=str(media.parent / f"catalog{most}"),
            enrichments=[
                {"capability": "object detection", "name": "objects", "labels": ["dark"], "sampling": sampling},
                {"capability": "object tracking", "name": "tracks", "labels": ["dark"], "sampling": sampling},
            ],
        )
        enrich(read_spec(path))
        found = rows(path)
        results.append((found["a.mp4", "objects"]["regions"], found["a.mp4", "tracks"]["tracks"]))
    assert results[0] == results[1]
    assert len(results[0][1]) == 1 and len(results[0][1][0]["points"]) == 60


def test_a_long_caption_is_a_timed_list_with_one_text_for_all(media: Path, write_spec: Any, stand_in: Any) -> None:
    moving_square(media / "a.mp4", frames=40)
    asked = {"capability": "video captioning", "name": "caption", "sampling": {"fps": 5, "max_frames": 8}}
    path = write_spec(f"{media}/*", enrichments=[asked])
    enrich(read_spec(path))
    row = rows(path)["a.mp4", "caption"]
    spans = [(s["start"], s["end"]) for s in row["segments"]]
    assert [round(start, 1) for start, _ in spans] == [0.0, 1.6, 3.2]
    assert spans[-1][1] == pytest.approx(4.0)
    assert row["text"]
    short = {**asked, "sampling": {"fps": 5, "max_frames": 8, "start": 1, "end": 3}}
    path = write_spec(f"{media}/*", enrichments=[short], catalog=str(media.parent / "part"))
    enrich(read_spec(path))
    segments = rows(path)["a.mp4", "caption"]["segments"]
    assert (segments[0]["start"], segments[-1]["end"]) == (1.0, 3.0)


def ugly_videos(folder: Path) -> dict[str, set[str]]:
    """Files as buckets hold them, with the causes they must end with; none: published."""
    whole = write_video(folder / "whole.mp4", [k * 40 for k in range(50)]).read_bytes()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "notes.mp4").write_bytes(b"these are notes")
    (folder / "cut before its index.mp4").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (32, 32), "red").save(folder / "picture.mp4", "PNG")
    frames = [Image.new("RGB", (32, 32), c) for c in ("red", "blue")]
    frames[0].save(folder / "animation.mp4", "GIF", save_all=True, append_images=frames[1:])
    (folder / "playlist.mp4").write_bytes(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    write_video(folder / "one frame.mp4", [0])
    write_video(folder / "odd size.avi", [k * 40 for k in range(9)], codec="ffv1", size=(63, 47), container="avi")
    write_video(folder / "ten bits.mkv", [k * 40 for k in range(9)], codec="libx265", pix_fmt="yuv420p10le",
                options={"x265-params": "log-level=none"})  # fmt: skip
    write_video(folder / "name with # ? % + & ü.mp4", [k * 40 for k in range(9)])
    with av.open(str(folder / "sound.mp4"), "w") as out:
        stream: Any = out.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        out.mux(stream.encode(sound))
        out.mux(stream.encode())
    matroska = write_video(folder / "variable.mkv", [0, 10, 500, 520, 1500, 1510, 3000]).read_bytes()
    (folder / "unknown codec.mkv").write_bytes(matroska.replace(b"V_MPEG4/ISO/AVC", b"V_NOBODY/KNOWS1"))
    write_video(folder / "wide.mp4", [0, 40], size=(512, 256))
    return {
        "empty.mp4": {"unreadable"},
        "notes.mp4": {"unreadable"},
        "cut before its index.mp4": {"unreadable"},
        "picture.mp4": {"unreadable"},
        "animation.mp4": {"unreadable"},
        "playlist.mp4": {"unreadable"},
        "sound.mp4": {"unsupported"},
        "unknown codec.mkv": {"unsupported"},
        "wide.mp4": {"too_large"},
    }


def test_ugly_videos_end_with_their_cause_and_their_neighbours_are_published(
    media: Path, write_spec: Any, stand_in: Any
) -> None:
    expected = ugly_videos(media)
    policy = {"max_quarantine_ratio": 1.0, "limits": {"max_pixels": 100_000}}
    path = write_spec(f"{media}/*", enrichments=ASKED[:4], policy=policy)
    enrich(read_spec(path))
    assert causes(path) == expected
    good = {file.name for file in media.iterdir()} - set(expected)
    assert {name for name, _ in rows(path)} == good and len(rows(path)) == 4 * len(good)


def test_a_time_range_outside_a_video_fails_that_enrichment_only(media: Path, write_spec: Any, stand_in: Any) -> None:
    moving_square(media / "a.mp4")
    late = {"capability": "video captioning", "name": "late", "sampling": {"frames": 4, "start": 60}}
    path = write_spec(f"{media}/*", enrichments=[ASKED[0], late])
    enrich(read_spec(path))
    assert set(rows(path)) == {("a.mp4", "caption")}
    assert causes(path) == {"a.mp4": {"decode"}}


_MEASURE = """
import json, re, sys
from pathlib import Path
from sightflow.schemas.policy import Limits
from sightflow.tasks.media.read_video import read_frames, sampled
from sightflow.tasks.media.video_index import index_video
from sightflow.schemas.enrichment import FrameSampling
# Not ru_maxrss, which a process inherits from the one that started it.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1)) / 1024
before = peak()
path = Path(sys.argv[1])
index = index_video(path, Limits(max_seconds=1e9))
count = sum(1 for _ in read_frames(path, index, sampled(index, FrameSampling(fps=0.05)), 768))
print(json.dumps([index.duration, count, peak() - before]))
"""


def long_video(path: Path, seconds: int, size: tuple[int, int]) -> Path:
    """A still of this length: one coded group of pictures, written again and again with later times."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25, options={"g": "250", "bf": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 90, dtype=np.uint8), format="rgb24")
        coded: list[tuple[bytes, bool]] = []
        for k in range(250):
            frame.pts = k
            coded += [(bytes(packet), packet.is_keyframe) for packet in stream.encode(frame)]
        coded += [(bytes(packet), packet.is_keyframe) for packet in stream.encode()]
        for k in range(25 * seconds):
            content, key = coded[k % 250]
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 25), k, k
            packet.duration, packet.is_keyframe = 1, key
            out.mux(packet)
    return path


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path: Path) -> None:
    used = []
    for seconds in (60, 3 * 3600):
        path = long_video(tmp_path / f"{seconds}.mp4", seconds, (1920, 1080))
        done = subprocess.run([sys.executable, "-c", _MEASURE, str(path)], capture_output=True, text=True, check=True)
        duration, count, grown = json.loads(done.stdout)
        assert (round(duration), count) == (seconds, seconds // 20)
        used.append(grown)
    assert used[0] > 5 and used[1] < 600
