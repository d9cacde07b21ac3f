"""Videos by batch: by their frames, window by window."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.loopback.hosted_systems import GEMINI, GPT, QWEN, System, named
from tests.loopback.server import Received, Say
from tests.tasks.batches.stages import collect, planned, run, spec_of, without_prefect
from tests.tasks.batches.test_delivery import OF_DELIVERY, plain, rows_of
from tests.videos import number_of, write_video


@pytest.fixture(autouse=True)
def _without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    without_prefect(monkeypatch)


@pytest.mark.parametrize("system", [GPT, QWEN], ids=named)
def test_a_long_video_is_asked_about_window_by_window_and_comes_back_as_one_row(system: System, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    write_video(tmp_path / "media" / "a.mp4", range(0, 3000, 100))
    write_video(tmp_path / "media" / "b.mp4", range(0, 400, 100))
    sampling = {"fps": 10, "max_frames": 8}
    asked = [
        {"capability": "video captioning", "name": "story", "sampling": sampling},
        {"capability": "object detection", "name": "boxes", "labels": ["box"], "media": "video", "sampling": sampling},
    ]

    def behave(received: Received) -> Say:
        if "JSON array" in received.texts[-1]:
            entry = {"label": "box", "frame": 2, "box": [10, 10, 500, 500], "bbox_2d": [10, 10, 500, 500]}
            return Say(system.regions([entry]))
        return Say(f"{len(received.images)} frames, the first is {number_of(received.images[0])}")

    with system.on_loopback(behave) as provider:
        by_batch = spec_of(tmp_path, system.name, provider.url, asked, id=system.id)
        directly = spec_of(tmp_path, system.name, provider.url, asked, {"delivery": "direct"}, "direct", id=system.id)
        run(directly)
        assert run(by_batch) == 4
        (outcome,) = collect(by_batch).outcomes
        assert provider.complaints == []
    assert (outcome.published, outcome.requests) == (4, 11)
    rows = rows_of(by_batch)
    assert_frame_equal(rows.drop(OF_DELIVERY), rows_of(directly).drop(OF_DELIVERY))
    story = rows.filter((pl.col("enrichment") == "story") & pl.col("uri").str.ends_with("a.mp4"))
    assert story["segments"].list.len().to_list() == [4]


def test_whole_videos_for_gemini_are_delivered_directly_and_the_plan_says_so(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    write_video(tmp_path / "media" / "a.mp4", range(0, 400, 100))
    with GEMINI.on_loopback(plain) as provider:
        spec = spec_of(tmp_path, GEMINI.name, provider.url, [{"capability": "video captioning", "name": "story"}])
        (enrichment,) = planned(spec).plans
        assert "whole videos" in enrichment.delivery.note
        assert run(spec) == 0
    assert rows_of(spec).height == 1
