"""How well objects keep their identities: HOTA, MOTA and identity switches, by TrackEval.

    python -m benchmarks.tracking

On what a tracker of motmetrics found in two sequences of people (TUD-Campus, TUD-Stadtmitte), its identities taken
away; and on their truth with a seventh of the boxes gone, the others shaken by a twentieth of their sides, and one
false box in three frames. `python -m sightflow.infra.demo.evaluate_videos` does the same for the demo's model on drawn
videos.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from sightflow.blocks.models.video.tracking import link
from sightflow.schemas.enrichment import Region, Track
from sightflow.schemas.geometry import Box

_FRAMES_A_SECOND: Final = 25.0
Boxes = dict[int, list[tuple[int, Box]]]
"""Identity and box of what is in each frame."""


def read_boxes(path: Path) -> Boxes:
    """A file in MOTChallenge's form: frame, identity, left, top, width, height in pixels, and more."""
    boxes: Boxes = {}
    for line in path.read_text().splitlines():
        frame, identity, left, top, width, height = (float(field) for field in line.split(",")[:6])
        boxes.setdefault(int(frame), []).append((int(identity), Box(left, top, left + width, top + height)))
    return boxes


def shaken(truth: Boxes, seed: int) -> Boxes:
    """What a middling detector would have made of it."""
    rng = np.random.default_rng(seed)
    found: Boxes = {}
    for frame, boxes in truth.items():
        found[frame] = []
        for identity, box in boxes:
            width, height = box.x_max - box.x_min, box.y_max - box.y_min
            left, top, right, bottom = rng.normal(0, 0.05, 4) * (width, height, width, height)
            if rng.random() > 1 / 7:
                found[frame] += [
                    (identity, Box(box.x_min + left, box.y_min + top, box.x_max + right, box.y_max + bottom))
                ]
        for _ in range(rng.poisson(1 / 3)):
            x, y = rng.uniform(0, 500), rng.uniform(0, 300)
            found[frame].append((0, Box(x, y, x + 60, y + 150)))
    return found


def scores(truth: Boxes, found: Boxes, every: int) -> dict[str, float]:
    """Link what was found in every so many frames, and compare with the truth in these."""
    from trackeval.metrics import CLEAR, HOTA

    frames = [frame for frame in range(1, max(truth) + 1) if frame % every == 1 % every]
    times = [(frame, frame / _FRAMES_A_SECOND) for frame in frames]
    regions = [
        Region("person", box, frame_index=frame, seconds=seconds)
        for frame, seconds in times
        for _, box in found.get(frame, [])
    ]
    data = _trackeval(frames, truth, link(times, regions))
    with contextlib.redirect_stdout(io.StringIO()):
        hota, clear = HOTA().eval_sequence(data), CLEAR({"PRINT_CONFIG": False}).eval_sequence(data)
    return {"HOTA": float(np.mean(hota["HOTA"])), "MOTA": float(clear["MOTA"]), "switches": float(clear["IDSW"])}


def _trackeval(frames: Sequence[int], truth: Boxes, tracks: Sequence[Track]) -> dict[str, Any]:
    said: Boxes = {}
    for track in tracks:
        for point in track.points:
            said.setdefault(point.frame_index, []).append((track.track_id - 1, point.box))
    identities = {identity: k for k, identity in enumerate(sorted({i for f in frames for i, _ in truth.get(f, [])}))}
    data: dict[str, Any] = {"gt_ids": [], "tracker_ids": [], "similarity_scores": []}
    for frame in frames:
        here, ours = truth.get(frame, []), said.get(frame, [])
        data["gt_ids"].append(np.array([identities[identity] for identity, _ in here], dtype=int))
        data["tracker_ids"].append(np.array([number for number, _ in ours], dtype=int))
        overlaps = [[box.iou(other) for _, other in ours] for _, box in here]
        data["similarity_scores"].append(np.array(overlaps, dtype=float).reshape(len(here), len(ours)))
    return data | {
        "num_timesteps": len(frames),
        "num_gt_ids": len(identities),
        "num_tracker_ids": len(tracks),
        "num_gt_dets": sum(len(ids) for ids in data["gt_ids"]),
        "num_tracker_dets": sum(len(ids) for ids in data["tracker_ids"]),
    }


def main() -> None:
    """Print the scores."""
    import motmetrics

    print(f"{'':48}{'HOTA':>8}{'MOTA':>8}{'switches':>10}")
    for name in ("TUD-Campus", "TUD-Stadtmitte"):
        folder = Path(motmetrics.__file__).parent / "data" / name
        truth, tracked = read_boxes(folder / "gt.txt"), read_boxes(folder / "test.txt")
        for what, found in (("a tracker's boxes", tracked), ("the truth, shaken", shaken(truth, 1))):
            for every in (1, 3, 6):
                row = scores(truth, found, every)
                label = f"{name}, {what}, {_FRAMES_A_SECOND / every:.1f} a second"
                print(f"{label:48}{row['HOTA']:8.3f}{row['MOTA']:8.3f}{row['switches']:10.0f}", flush=True)


if __name__ == "__main__":
    main()
