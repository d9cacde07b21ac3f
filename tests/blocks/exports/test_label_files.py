"""Files of labels as other tools write them: nothing of them is lost, guessed or taken for another thing unsaid."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.labels import Labels
from sightflow.blocks.exports.label_import import ImportOptions, ImportReport, import_labels
from sightflow.schemas.failure import SightflowError
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from tests.schemas.tables.test_catalog import caption, row

DOGS = [{"id": 1, "name": "dog"}]
IMAGE = {"id": 1, "file_name": "a.jpg"}
PLACE = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
POINT = {"frame_index": 3, "seconds": 0.1, "x_min": 1.0, "y_min": 1.0, "x_max": 9.0, "y_max": 8.0, "score": None}
VIDEO: dict[str, Any] = {
    "uri": "s3://b/v.mp4", "media_kind": "video", "duration": 2.0, "frame_rate": 25.0, "regions": None,
    "enrichment": "tracks", "capability": "object_tracking",
    "tracks": [{"track_id": 1, "label": "dog", "points": [{**POINT, "gap": False}]}],
}  # fmt: skip


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    catalog = Catalog.at(tmp_path / "catalog")
    rows = [row(uri="s3://b/a.jpg"), caption(uri="s3://b/a.jpg"), row(uri="s3://b/b.jpg"), row(**VIDEO)]
    catalog.publish(pl.DataFrame(rows, schema=CATALOG_SCHEMA))
    return catalog


def imported(catalog: Catalog, path: Path, format: str, enrichment: str = "objects") -> ImportReport:
    return import_labels(catalog, path, format, ImportOptions("ann", enrichment))


def coco(images: list[Any], annotations: list[Any], categories: list[Any] = DOGS) -> str:
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


WRONG = {
    "an annotation of another image": ("coco", coco([IMAGE], [PLACE, {**PLACE, "image_id": 77}]), "image 77"),
    "an id as text": ("coco", coco([{**IMAGE, "id": "1"}], [PLACE]), "the image 1,"),
    "two images with one id": ("coco", coco([IMAGE, {**IMAGE, "file_name": "b.jpg"}], [PLACE]), "image 1 is there tw"),
    "two categories with one id": ("coco", coco([IMAGE], [PLACE], [*DOGS, {"id": 1, "name": "cat"}]), "category 1 is"),
    "a category that is a list": ("coco", coco([IMAGE], [{**PLACE, "category_id": [1]}]), "has no name"),
    "a comma without quotes": ("csv", "uri,enrichment,text\ns3://b/a.jpg,caption,a dog, a cat\n", "quotes"),
    "no address": ("csv", "uri,enrichment,text\n,caption,a dog\n", "has no `uri`"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_would_be_lost_or_guessed_is_refused(catalog: Catalog, tmp_path: Path, case: str) -> None:
    format, content, told = WRONG[case]
    (tmp_path / "file").write_text(content)
    with pytest.raises(SightflowError, match=told):
        imported(catalog, tmp_path / "file", format)
    assert catalog.table("labels") is None


@pytest.mark.parametrize(
    ("names", "line", "told"),
    [
        ("{0: dog, 1: no}", "1 0.5 0.5 0.1 0.1", "in quotes"),
        ("{0: dog, 1: [cat]}", "1 0.5 0.5 0.1 0.1", "in quotes"),
        ("[dog, cat]", "0.7 0.5 0.5 0.1 0.1", "no whole number"),
    ],
)
def test_a_class_of_yolo_has_a_whole_number_and_a_name(
    catalog: Catalog, tmp_path: Path, names: str, line: str, told: str
) -> None:
    (tmp_path / "data.yaml").write_text(f"names: {names}\n")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(f"{line}\n")
    with pytest.raises(SightflowError, match=told):
        imported(catalog, tmp_path, "yolo")


def mot(tmp_path: Path, *lines: str) -> Path:
    (tmp_path / "train" / "v" / "gt").mkdir(parents=True)
    (tmp_path / "train" / "v" / "gt" / "gt.txt").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path / "train"


@pytest.mark.parametrize("frame", ["0", "1.5", "58", "99999999999", "1e300"])
def test_a_frame_is_one_of_the_video(catalog: Catalog, tmp_path: Path, frame: str) -> None:
    with pytest.raises(SightflowError, match=r"frame|whole"):
        imported(catalog, mot(tmp_path, f"{frame},1,1,1,5,5,1,1,1"), "mot", "tracks")


def test_a_line_of_mot_that_is_not_to_be_counted_is_no_label(catalog: Catalog, tmp_path: Path) -> None:
    imported(catalog, mot(tmp_path, "1,1,1,1,5,5,1,1,1", "2,2,1,1,5,5,0,1,1"), "mot", "tracks")
    label = Labels(catalog).find("s3://b/v.mp4", "tracks")
    assert label is not None and [each["track_id"] for each in label["tracks"]] == [1]


def test_an_annotation_without_results_says_that_nothing_is_there_if_it_is_said_of_what(
    catalog: Catalog, tmp_path: Path
) -> None:
    (tmp_path / "tasks.json").write_text(json.dumps([{"data": {"image": "a.jpg"}, "annotations": [{"result": []}]}]))
    for name in ("", "caption"):
        told = imported(catalog, tmp_path / "tasks.json", "label-studio", name)
        assert told.saved == 0 and sum(told.counts.values()) == 1 and "--enrichment" in told.problems[0]
    assert imported(catalog, tmp_path / "tasks.json", "label-studio", "objects").saved == 1
    label = Labels(catalog).find("s3://b/a.jpg", "objects")
    assert label is not None and label["regions"] == []


def test_a_name_that_is_no_text_is_of_no_object(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(coco([{**IMAGE, "file_name": "\ud800a.jpg"}], []))
    assert imported(catalog, tmp_path / "file", "coco").counts == {"are of no object of the catalog": 1}
