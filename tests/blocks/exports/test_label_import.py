"""Labels from other tools' files: each object is found, each label checked, and what cannot be taken is told."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.labels import Labels
from sightflow.blocks.exports.label_files.found import UnreadableLabels, WrongLabel
from sightflow.blocks.exports.label_import import ImportOptions, ImportReport, import_labels, label_reader
from sightflow.schemas.failure import SightflowError, SpecError
from sightflow.schemas.masks import decode_mask
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from sightflow.schemas.tables.labels import InvalidLabel
from tests.schemas.tables.test_catalog import MASK, caption, row

URIS = ["s3://b/x/a.jpg", "s3://b/y/a.jpg", "s3://b/x/b.png"]
COCO: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "b.png", "width": 40, "height": 30}],
    "categories": [{"id": 3, "name": "dog"}],
    "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 20], "iscrowd": 0}],
}


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    catalog = Catalog.at(tmp_path / "catalog")
    rows = [each for uri in URIS for each in (row(uri=uri), caption(uri=uri))]
    catalog.publish(pl.DataFrame(rows, schema=CATALOG_SCHEMA))
    return catalog


def coco(tmp_path: Path, **changes: Any) -> Path:
    (tmp_path / "labels.json").write_text(json.dumps(COCO | changes))
    return tmp_path / "labels.json"


def taken(catalog: Catalog, path: Path, format: str = "coco", **options: Any) -> ImportReport:
    return import_labels(catalog, path, format, ImportOptions("ann", **{"enrichment": "objects", **options}))


def annotation(**changes: Any) -> list[dict[str, Any]]:
    return [COCO["annotations"][0] | changes]


def test_a_foreign_coco_file_is_taken_by_its_file_names(catalog: Catalog, tmp_path: Path) -> None:
    report = taken(catalog, coco(tmp_path))
    assert (report.saved, dict(report.counts)) == (1, {})
    saved = Labels(catalog).find("s3://b/x/b.png", "objects")
    assert saved is not None and saved["origin"] == "import coco" and saved["labelled_by"] == "ann"
    (region,) = saved["regions"]
    assert [region[edge] for edge in ("x_min", "y_min", "x_max", "y_max")] == [1, 2, 11, 22]
    assert saved["object_version"] == "etag-5" and saved["sha256"] == "a" * 64 and saved["prefilled_system"] is None


def test_objects_that_are_not_known_or_not_told_apart_are_told(catalog: Catalog, tmp_path: Path) -> None:
    images = [{"id": k, "file_name": name} for k, name in enumerate(["a.jpg", "gone.jpg", "x/a.jpg", "b.png"])]
    path = coco(tmp_path, images=images, annotations=[])
    report = taken(catalog, path)
    assert report.saved == 2 and dict(report.counts) == {"are of no object of the catalog": 2}
    assert any("2 objects end so" in problem for problem in report.problems)
    below = taken(catalog, path, root="s3://b/y/")
    assert below.saved == 1 and Labels(catalog).find("s3://b/y/a.jpg", "objects") is not None


def test_what_stands_is_left_unless_it_is_to_be_replaced(catalog: Catalog, tmp_path: Path) -> None:
    assert taken(catalog, coco(tmp_path)).saved == 1
    again = taken(catalog, coco(tmp_path, annotations=[]))
    assert again.saved == 0 and dict(again.counts) == {"have a label already": 1}
    assert taken(catalog, coco(tmp_path, annotations=[]), replace=True).saved == 1
    history = Labels(catalog).history("s3://b/x/b.png", "objects")
    assert [len(each["regions"]) for each in history] == [0, 1]


RING = np.zeros((30, 40), dtype=bool)
RING[2:22, 1:11] = True


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 11, 2, 11, 22, 1, 22]],
        {"size": [30, 40], "counts": [30 + 2, *[20, 10] * 9, 20, 8 + 29 * 30]},
    ],
)
def test_masks_are_taken_as_polygons_and_as_runs(catalog: Catalog, tmp_path: Path, segmentation: Any) -> None:
    taken(catalog, coco(tmp_path, annotations=annotation(segmentation=segmentation, bbox=None)))
    (region,) = Labels(catalog).find("s3://b/x/b.png", "objects")["regions"]  # type: ignore[index]
    assert (decode_mask(region["mask"], 40, 30) == RING).all()
    assert [region[edge] for edge in ("x_min", "y_min", "x_max", "y_max")] == [1, 2, 11, 22]


WRONG = [
    ({"bbox": [1, 2, 100, 3]}, "boxes_are_inside_the_picture"),
    ({"bbox": [1, 2, -1, 3]}, "boxes_are_ordered"),
    ({"bbox": [1, 2, float("nan"), 3]}, "no finite number"),
    ({"bbox": ["1e400", 2, 3, 3]}, "no finite number"),
    ({"bbox": [True, 2, 3, 3]}, "no number"),
    ({"bbox": [1, 2, 3]}, "without a box or a mask"),
    ({"category_id": 4}, "has no name"),
    ({"category_id": [3]}, "has no name"),
    ({"segmentation": {"size": [30, 40], "counts": MASK + "1"}}, "do not add up"),
    ({"segmentation": {"size": [30, 40], "counts": [1200000000]}}, "do not add up"),
    ({"segmentation": [[0, 0, 1, 0]]}, "an outline of 4 numbers"),
    ({"segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]}, "leaves the image"),
    ({"segmentation": [[0, 0] * 200_001]}, "an outline of"),
]


@pytest.mark.parametrize(("changes", "why"), WRONG)
def test_one_wrong_label_is_named_and_nothing_is_written(
    catalog: Catalog, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    path = coco(tmp_path, annotations=annotation(**changes))
    with pytest.raises(InvalidLabel, match=why) as caught:
        taken(catalog, path)
    assert "image 7" in str(caught.value) and "none was imported" in str(caught.value)
    assert catalog.table("labels") is None


def test_an_image_of_another_size_is_no_image_of_ours(catalog: Catalog, tmp_path: Path) -> None:
    images = [COCO["images"][0] | {"width": 30, "height": 40}]
    with pytest.raises(InvalidLabel, match="30 x 40 here, and 40 x 30 upright"):
        taken(catalog, coco(tmp_path, images=images))


def test_a_box_a_little_past_the_edge_is_clipped(catalog: Catalog, tmp_path: Path) -> None:
    taken(catalog, coco(tmp_path, annotations=annotation(bbox=[-0.5, 0, 41, 30.9])))
    (region,) = Labels(catalog).find("s3://b/x/b.png", "objects")["regions"]  # type: ignore[index]
    assert [region[edge] for edge in ("x_min", "y_min", "x_max", "y_max")] == [0, 0, 40, 30]


def test_which_enrichment_must_be_said_and_be_there(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the file names no enrichment; say which with --enrichment: caption, objects"):
        taken(catalog, coco(tmp_path), enrichment="")
    with pytest.raises(SpecError, match="has no enrichment masks"):
        taken(catalog, coco(tmp_path), enrichment="masks")
    with pytest.raises(InvalidLabel, match="has_the_result_its_capability_gives"):
        taken(catalog, coco(tmp_path), enrichment="caption")
    with pytest.raises(SpecError, match="allowed: coco, yolo, mot"):
        label_reader("voc")


FILES = {
    "labels.json": (b"{", b"\xff\xfe", b"[1]", b"[" * 100_000, b'{"images": 3, "annotations": []}', b"1" * 5000),
    "data.yaml": (b"names: [", b"a: 1", b"names: 3", b"names: !!python/object/apply:os.getcwd []", b"{" * 2000),
}


@pytest.mark.parametrize(("name", "content"), [(name, each) for name, some in FILES.items() for each in some])
def test_a_file_of_another_kind_is_told_with_its_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "labels").mkdir()
    found = label_reader("yolo")(tmp_path) if name == "data.yaml" else label_reader("coco")(tmp_path / name)
    with pytest.raises(UnreadableLabels, match=name):
        list(found)


def test_a_yaml_of_aliases_is_not_written_out(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 12)]
    (tmp_path / "data.yaml").write_text("\n".join([*lines, "names: {0: *a11, 1: dog}"]))
    (tmp_path / "labels").mkdir()
    with pytest.raises(UnreadableLabels, match="put it in quotes"):
        list(label_reader("yolo")(tmp_path))


TASK: dict[str, Any] = {
    "data": {"image": "/data/local-files/?d=b.png", "uri": "s3://b/x/b.png", "object_version": "etag-5"},
    "annotations": [
        {
            "was_cancelled": False,
            "result": [
                {
                    "id": "objects-0",
                    "from_name": "objects",
                    "to_name": "Media",
                    "type": "rectanglelabels",
                    "value": {"x": 1, "y": 2, "width": 3, "height": 4, "rotation": 0, "rectanglelabels": ["dog"]},
                }
            ],
        }
    ],
}
HOSTILE: list[Any] = [None, -1, 1e308, "x", [], {}, [[[]]], {"x": {"y": 1}}, True]


def changed(document: Any, path: tuple[Any, ...] = ()) -> Iterator[Any]:
    """The document with each of its parts replaced by each hostile value."""
    for place in document if isinstance(document, dict) else range(len(document)):
        for value in HOSTILE:
            other = copy.copy(document)
            other[place] = value
            yield other
        if isinstance(document[place], dict | list):
            for part in changed(document[place]):
                other = copy.copy(document)
                other[place] = part
                yield other


@pytest.mark.parametrize(("format", "document"), [("coco", COCO), ("label-studio", [TASK])])
def test_whatever_stands_in_a_file_is_read_or_told(tmp_path: Path, format: str, document: Any) -> None:
    facts = row(uri="s3://b/x/b.png")
    for other in changed(document):
        (tmp_path / "file.json").write_text(json.dumps(other))
        try:
            for found in label_reader(format)(tmp_path / "file.json"):
                found.read(facts)
        except (SightflowError, WrongLabel):
            continue


def test_predictions_and_cancelled_annotations_are_no_labels(tmp_path: Path) -> None:
    cancelled = {**TASK, "annotations": [{**TASK["annotations"][0], "was_cancelled": True}]}
    predicted = {"data": TASK["data"], "predictions": TASK["annotations"]}
    (tmp_path / "file.json").write_text(json.dumps([cancelled, predicted]))
    assert list(label_reader("label-studio")(tmp_path / "file.json")) == []
