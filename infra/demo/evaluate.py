"""How true the demo model is, on held-out scenes and through the whole program: S3, flow, catalog.

    python -m sightflow.infra.demo.evaluate --scenes 200

Needs the development packages (faster-coco-eval is the reference for mean average precision).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from sightflow.infra.demo.bucket import KEYS, MODEL_FOLDER, fill_bucket, s3_on_loopback
from sightflow.infra.demo.scenes import Scene, draw_scene
from sightflow.infra.demo.shapes_vocabulary import LABELS, article
from sightflow.schemas.geometry import Box

SEGMENTED: Final = ("red circle", "blue square", "green triangle", "yellow star", "purple circle", "orange square")

_SPEC: Final = """\
source: s3://held-out/**
catalog: catalog
store: {{endpoint_url: "{endpoint}"}}
models: {{florence-2: {{id: "{model}", enforce_reply_form: {enforced}}}}}
policy: {{max_quarantine_ratio: 1.0}}
enrichments:
  - {{capability: image captioning, name: caption}}
  - {{capability: object detection, name: objects}}
  - {{capability: visual grounding, name: grounded, phrases: {phrases}}}
  - {{capability: segmentation, name: masks, labels: {segmented}}}
  - {{capability: vqa, name: how_many, question: "how many shapes are there?", choices: ["1", "2", "3", "4"]}}
"""


def write_evaluation(
    folder: Path, endpoint: str, seeds: Sequence[int], model: Path = MODEL_FOLDER, enforced: bool = True
) -> list[Scene]:
    """Draw the scenes of `seeds`, put them in S3 and write `spec.yaml`; return the scenes."""
    scenes = [draw_scene(seed) for seed in seeds]
    (folder / "media").mkdir(parents=True)
    for scene in scenes:
        scene.image.save(folder / "media" / f"{scene.seed:04d}.png")
    fill_bucket(endpoint, folder / "media", "held-out")
    phrases = json.dumps([f"{article(label)} {label}" for label in LABELS])
    asked = {"phrases": phrases, "segmented": json.dumps(SEGMENTED), "enforced": json.dumps(enforced)}
    text = _SPEC.format(endpoint=endpoint, model=model, **asked)
    (folder / "spec.yaml").write_text(text)
    return scenes


def scores(scenes: Sequence[Scene], rows: pl.DataFrame) -> dict[str, float]:
    """Compare catalog rows with the truth of the scenes; an item that is not in the catalog counts as wrong."""
    answers: dict[tuple[int, str], Mapping[str, Any]] = {
        (int(row["uri"].rpartition("/")[2].removesuffix(".png")), row["enrichment"]): row
        for row in rows.iter_rows(named=True)
    }

    def text(scene: Scene, name: str) -> str | None:
        return answers.get((scene.seed, name), {}).get("text")

    found = {scene.seed: answers.get((scene.seed, "objects"), {}).get("regions") or [] for scene in scenes}
    located, spurious, absent, overlaps = [], 0, 0, []
    for scene in scenes:
        truth = {thing.label: thing for thing in scene.objects}
        grounded = answers.get((scene.seed, "grounded"), {}).get("regions") or []
        for label in LABELS:
            boxes = [_box(r) for r in grounded if r["label"].endswith(label)]
            if label in truth:
                located.append(len(boxes) == 1 and boxes[0].iou(Box(*truth[label].box)) >= 0.5)
            else:
                absent += 1
                spurious += bool(boxes)
        masks = answers.get((scene.seed, "masks"), {}).get("regions") or []
        for label in set(SEGMENTED) & set(truth):
            overlaps.append(_mask_overlap(scene, label, [r["mask"] for r in masks if r["label"] == label]))
    return {
        "scenes": len(scenes),
        "published": rows.height / (5 * len(scenes)),
        "detection mAP@0.5": mean_average_precision(scenes, found),
        "grounding accuracy@0.5": float(np.mean(located)),
        "grounding, phrase not in the picture, yet a box": spurious / absent,
        "caption exact": float(np.mean([text(scene, "caption") == scene.caption for scene in scenes])),
        "segmentation mean IoU": float(np.mean(overlaps)),
        "count, of four choices": float(np.mean([text(s, "how_many") == str(len(s.objects)) for s in scenes])),
    }


def mean_average_precision(scenes: Sequence[Scene], found: Mapping[int, Sequence[Mapping[str, Any]]]) -> float:
    """COCO's AP at IoU 0.5, the mean over labels; the model gives no scores, so every box counts as sure."""
    from faster_coco_eval import COCO, COCOeval_faster

    categories = {label: k for k, label in enumerate(LABELS, 1)}
    truth: dict[str, Any] = {
        "images": [{"id": s.seed, "width": s.image.width, "height": s.image.height} for s in scenes],
        "categories": [{"id": k, "name": label} for label, k in categories.items()],
        "annotations": [],
    }
    for scene in scenes:
        for thing in scene.objects:
            box = _xywh(Box(*thing.box))
            entry: dict[str, Any] = {"id": len(truth["annotations"]) + 1, "image_id": scene.seed, "iscrowd": 0}
            entry |= {"category_id": categories[thing.label], "bbox": box, "area": box[2] * box[3]}
            truth["annotations"].append(entry)
    detections = [
        {"image_id": seed, "category_id": categories[r["label"]], "bbox": _xywh(_box(r)), "score": 1.0}
        for seed, regions in found.items()
        for r in regions
        if r["label"] in categories
    ]
    if not detections:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(truth)
        evaluation = COCOeval_faster(reference, reference.loadRes(detections), "bbox")
        evaluation.run()
    return float(evaluation.stats[1])


def _box(region: Mapping[str, Any]) -> Box:
    return Box(*(region[edge] for edge in ("x_min", "y_min", "x_max", "y_max")))


def _xywh(box: Box) -> list[float]:
    return [box.x_min, box.y_min, box.x_max - box.x_min, box.y_max - box.y_min]


def _mask_overlap(scene: Scene, label: str, masks: Sequence[str]) -> float:
    from sightflow.schemas.masks import decode_mask

    width, height = scene.image.size
    truth = next(thing.mask for thing in scene.objects if thing.label == label)
    said = np.zeros_like(truth)
    for mask in masks:
        said |= decode_mask(mask, width, height)
    return float((truth & said).sum() / (truth | said).sum())


def evaluate(count: int, model: Path = MODEL_FOLDER, enforced: bool = True) -> dict[str, float]:
    """Run the program over the first `count` held-out scenes and score what it published.

    `enforced`: whether replies are held to their form while they are written.
    """
    from sightflow.flows.enrich import enrich
    from sightflow.schemas.spec_reader import read_spec
    from sightflow.tasks.open import open_catalog

    os.environ.update(KEYS)
    with tempfile.TemporaryDirectory() as scratch, s3_on_loopback() as endpoint:
        scenes = write_evaluation(Path(scratch), endpoint, range(count), model, enforced)
        spec = read_spec(Path(scratch) / "spec.yaml")
        enrich(spec)
        catalog = open_catalog(spec)
        malformed = catalog.scan("quarantine").filter(pl.col("cause") == "malformed").collect().height
        return {**scores(scenes, catalog.scan("enrichments").collect()), "malformed replies": malformed}


def main() -> None:
    """Print the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--free", action="store_true", help="do not hold replies to their form")
    arguments = parser.parse_args()
    from sightflow.infra.prefect_server import prefect_api

    with prefect_api() as server:
        if server is not None:
            server.wait()
        for name, value in evaluate(arguments.scenes, arguments.model.resolve(), not arguments.free).items():
            print(f"{name:50} {value:.3f}")


if __name__ == "__main__":
    main()
