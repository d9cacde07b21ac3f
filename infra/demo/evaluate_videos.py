"""How true tracks and captions of the demo's films are, on held-out films and through the whole program.

    python -m sightflow.infra.demo.evaluate_videos --videos 30

Needs the development packages (TrackEval is the reference for HOTA and CLEAR MOT).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from sightflow.infra.demo.bucket import KEYS, MODEL_FOLDER, VIDEO_MODEL_FOLDER, fill_bucket, s3_on_loopback
from sightflow.infra.demo.moving_scenes import LEAST_VISIBLE, Clip, draw_clip, write_video
from sightflow.schemas.geometry import Box

_SPEC: Final = """\
source: s3://films/**
catalog: catalog
store: {{endpoint_url: "{endpoint}"}}
models:
  florence-2: {{id: "{florence}"}}
  qwen2-vl: {{id: "{qwen}"}}
policy: {{max_quarantine_ratio: 1.0}}
enrichments:
  - {{capability: object tracking, name: tracks, model: florence-2, sampling: {{fps: 8}}}}
  - {{capability: video captioning, name: caption, model: qwen2-vl, sampling: {{frames: 8}}}}
"""


def write_evaluation(folder: Path, endpoint: str, count: int) -> tuple[list[Clip], list[Clip]]:
    """Draw as many busy films (for tracks) and calm ones (for captions), put them in S3 and write `spec.yaml`."""
    busy = [draw_clip(seed, "busy") for seed in range(count)]
    calm = [draw_clip(seed, "calm") for seed in range(count)]
    (folder / "media").mkdir(parents=True)
    for plot, clips in (("busy", busy), ("calm", calm)):
        for clip in clips:
            write_video(clip, folder / "media" / f"{plot}-{clip.seed:04d}.mp4")
    fill_bucket(endpoint, folder / "media", "films")
    text = _SPEC.format(endpoint=endpoint, florence=MODEL_FOLDER, qwen=VIDEO_MODEL_FOLDER)
    (folder / "spec.yaml").write_text(text)
    return busy, calm


def scores(busy: Sequence[Clip], calm: Sequence[Clip], rows: pl.DataFrame) -> dict[str, float]:
    """Compare catalog rows with the truth of the films; what is not in the catalog counts as not found."""
    answers = {
        (row["uri"].rpartition("/")[2].removesuffix(".mp4"), row["enrichment"]): row
        for row in rows.iter_rows(named=True)
    }
    right = [answers.get((f"calm-{c.seed:04d}", "caption"), {}).get("text") == c.caption for c in calm]
    tracks = [answers.get((f"busy-{c.seed:04d}", "tracks"), {}).get("tracks") or [] for c in busy]
    return {
        "films of each kind": len(busy),
        "published": rows.height / (2 * (len(busy) + len(calm))),
        **tracking_scores(busy, tracks),
        "caption exact": float(np.mean(right)),
    }


def tracking_scores(clips: Sequence[Clip], tracks: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """HOTA (the mean over its thresholds), MOTA at IoU 0.5 and identity switches, over all films together.

    Places that were interpolated (`gap`) count as said. Labels are not compared: identity is. As in MOTChallenge, what
    shows less than `LEAST_VISIBLE` of itself is no object, and a box that matches it at IoU 0.5 is left out.
    """
    from trackeval.metrics import CLEAR, HOTA

    metrics = HOTA(), CLEAR({"PRINT_CONFIG": False})
    sequences = [_sequence(clip, said) for clip, said in zip(clips, tracks, strict=True)]
    with contextlib.redirect_stdout(io.StringIO()):
        hota, clear = (
            metric.combine_sequences({str(k): metric.eval_sequence(data) for k, data in enumerate(sequences)})
            for metric in metrics
        )
    return {
        "HOTA": float(np.mean(hota["HOTA"])),
        "MOTA": float(clear["MOTA"]),
        "identity switches": float(clear["IDSW"]),
        "objects in all frames": float(sum(data["num_gt_dets"] for data in sequences)),
    }


def _sequence(clip: Clip, tracks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A film's truth and what was said of it, in TrackEval's form."""
    said: dict[int, list[tuple[int, Box]]] = {}
    for number, track in enumerate(tracks):
        for point in track["points"]:
            box = Box(*(point[edge] for edge in ("x_min", "y_min", "x_max", "y_max")))
            said.setdefault(point["frame_index"], []).append((number, box))
    data: dict[str, Any] = {"gt_ids": [], "tracker_ids": [], "similarity_scores": []}
    for number in range(clip.frame_count):
        things = clip.frame(number)[1]
        objects = [(thing.placement, Box(*thing.box)) for thing in things if thing.visible >= LEAST_VISIBLE]
        hidden = [Box(*thing.box) for thing in things if thing.visible < LEAST_VISIBLE]
        found = [(k, box) for k, box in said.get(number, []) if not _matches(box, hidden, [box for _, box in objects])]
        overlaps = [[box.iou(other) for _, other in found] for _, box in objects]
        data["gt_ids"].append(np.array([k for k, _ in objects], dtype=int))
        data["tracker_ids"].append(np.array([k for k, _ in found], dtype=int))
        data["similarity_scores"].append(np.array(overlaps, dtype=float).reshape(len(objects), len(found)))
    return data | {
        "num_timesteps": clip.frame_count,
        "num_gt_ids": len(clip.movers),
        "num_tracker_ids": len(tracks),
        "num_gt_dets": sum(len(ids) for ids in data["gt_ids"]),
        "num_tracker_dets": sum(len(ids) for ids in data["tracker_ids"]),
    }


def _matches(box: Box, hidden: Sequence[Box], objects: Sequence[Box]) -> bool:
    """Whether a box fits a mostly hidden object, and none that counts."""
    fits = any(box.iou(other) >= 0.5 for other in hidden)
    return fits and not any(box.iou(other) >= 0.5 for other in objects)


def evaluate(count: int) -> dict[str, float]:
    """Run the program over `count` held-out films of each kind and score what it published."""
    from sightflow.flows.enrich import enrich
    from sightflow.schemas.spec_reader import read_spec
    from sightflow.tasks.open import open_catalog

    os.environ.update(KEYS)
    with tempfile.TemporaryDirectory() as scratch, s3_on_loopback() as endpoint:
        busy, calm = write_evaluation(Path(scratch), endpoint, count)
        spec = read_spec(Path(scratch) / "spec.yaml")
        enrich(spec)
        return scores(busy, calm, open_catalog(spec).scan("enrichments").collect())


def main() -> None:
    """Print the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=30)
    arguments = parser.parse_args()
    from sightflow.infra.prefect_server import prefect_api

    with prefect_api() as server:
        if server is not None:
            server.wait()
        for name, value in evaluate(arguments.videos).items():
            print(f"{name:50} {value:.3f}")


if __name__ == "__main__":
    main()
