"""What is exported is read back by the libraries that others read it with."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.exports.export import export, export_format
from sightflow.blocks.exports.selected_rows import Wanted
from sightflow.schemas.masks import decode_mask, encode_mask
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from tests.blocks.exports.test_export_folder import made
from tests.schemas.tables.test_catalog import region

BITMAP = np.zeros((30, 40), dtype=bool)
BITMAP[2:20, 1:30] = True
BITMAP[5:9, 4:9] = False  # a hole
BITMAP[25:28, 33:39] = True  # and a second part
REGIONS = [region(label="dog"), region(label='a "cat": é', x_min=0.25, y_max=30.0, score=None)]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("exports")
    rows = made(folder / "media")
    for each in rows:
        if each["capability"] == "segmentation":
            each["regions"] = [region(mask=encode_mask(BITMAP))]
        elif each["regions"] is not None:
            each["regions"] = REGIONS if "1.png" not in each["uri"] else []
    catalog = Catalog.at(folder / "catalog")
    catalog.publish(pl.DataFrame(rows, schema=CATALOG_SCHEMA))
    return catalog


def exported(catalog: Catalog, out: Path, format: str, *enrichments: str) -> Path:
    report = export(catalog, Wanted(enrichments=enrichments), export_format(format), out, "copy", 10**6)
    assert not report.failed
    return out


def test_pycocotools_reads_boxes_masks_and_captions(catalog: Catalog, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    annotations = exported(catalog, tmp_path / "out", "coco") / "annotations"
    with contextlib.redirect_stdout(io.StringIO()):
        objects, masks, captions = (COCO(annotations / f"{name}.json") for name in ("objects", "masks", "caption"))
    first, second, _ = objects.loadImgs(sorted(objects.getImgIds()))
    found = objects.loadAnns(objects.getAnnIds(imgIds=first["id"]))
    assert [objects.cats[each["category_id"]]["name"] for each in found] == [each["label"] for each in REGIONS]
    assert [each["bbox"] for each in found] == [[1.0, 2.0, 29.0, 18.0], [0.25, 2.0, 29.75, 28.0]]
    assert objects.getAnnIds(imgIds=second["id"]) == [] and (tmp_path / "out" / "images" / second["file_name"]).exists()
    (mask,) = masks.loadAnns(masks.getAnnIds(imgIds=first["id"]))
    assert (masks.annToMask(mask) == BITMAP).all() and mask["area"] == BITMAP.sum()
    said = captions.loadAnns(captions.getAnnIds(imgIds=first["id"]))
    assert [each["caption"] for each in said] == ["picture 0"]


def test_faster_coco_eval_finds_an_export_equal_to_itself(catalog: Catalog, tmp_path: Path) -> None:
    from faster_coco_eval import COCO, COCOeval_faster

    content = json.loads((exported(catalog, tmp_path / "out", "coco") / "annotations" / "masks.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(content)
        found = truth.loadRes([{**each, "score": 0.9} for each in content["annotations"]])
        evaluation = COCOeval_faster(truth, found, "segm")
        evaluation.run()
    assert evaluation.stats_as_dict["AP_all"] == pytest.approx(1)


def test_supervision_reads_yolo_boxes_and_outlines(catalog: Catalog, tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    for name in ("objects", "masks"):
        out = exported(catalog, tmp_path / name, "yolo", name)
        dataset = supervision.DetectionDataset.from_yolo(
            images_directory_path=str(out / "images"),
            annotations_directory_path=str(out / "labels"),
            data_yaml_path=str(out / "data.yaml"),
            force_masks=name == "masks",
        )
        assert len(dataset) == 3
        found = {Path(path).name: detections for path, _, detections in dataset}
        if name == "objects":
            first = found["0.png"]
            assert [dataset.classes[number] for number in first.class_id] == [each["label"] for each in REGIONS]
            np.testing.assert_allclose(first.xyxy, [[1, 2, 30, 20], [0.25, 2, 30, 30]], atol=1e-4)
            assert len(found["1.png"]) == 0
        else:
            # OpenCV draws the line of an outline too, of which half lies outside: to the right and below.
            drawn = found["0.png"].mask[0]
            assert not (BITMAP & ~drawn).any()
            assert not (drawn & ~grown(BITMAP)).any()


def grown(bitmap: Any) -> Any:
    """A mask, its neighbours, and the bridges from the first corner to every other part."""
    padded = np.pad(bitmap, 1)
    around = [padded[dy : dy + 30, dx : dx + 40] for dy in range(3) for dx in range(3)]
    near = np.any(around, axis=0)
    near[1:27, 1:35] |= np.add.outer(np.arange(1, 27), np.zeros(34)) >= 0
    return near


def test_datasets_reads_columns_and_decodes_images(catalog: Catalog, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    out = exported(catalog, tmp_path / "out", "hf")
    found = datasets.load_dataset(str(out), "images", split="train", cache_dir=str(tmp_path / "cache"))
    assert found.num_rows == 3
    assert found[0]["image"].size == (40, 30) and found[0]["image"].getpixel((0, 0)) == (0, 0, 0)
    assert found["caption"][:] == ["picture 0", "picture 1", "picture 2"]
    assert found[0]["objects"] == REGIONS and found[1]["objects"] == []
    assert (decode_mask(found[0]["masks"][0]["mask"], 40, 30) == BITMAP).all()
    assert found.features["image"] == datasets.Image()
    videos = datasets.load_dataset(str(out), "videos", split="train", cache_dir=str(tmp_path / "cache"))
    assert videos[0]["tracks"][0]["points"][0]["x_max"] == 9.0
    assert (out / "videos" / "files" / videos[0]["video"]).read_bytes() == b"a video"


def test_webdataset_reads_samples_and_decodes_images(catalog: Catalog, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    out = exported(catalog, tmp_path / "out", "webdataset")
    samples = list(webdataset.WebDataset(str(out / "shard-000000.tar"), shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == [f"{k:09d}" for k in range(4)]
    assert samples[2]["png"].getpixel((0, 0)) == (2, 0, 0)
    said = {each["enrichment"]: each for each in samples[0]["json"]["enrichments"]}
    assert said["objects"]["regions"] == REGIONS and said["caption"]["text"] == "picture 0"
    assert samples[3]["json"]["uri"].endswith("v.mp4") and samples[3]["mp4"] == b"a video"


def test_trackeval_reads_sequences_and_finds_them_equal_to_themselves(catalog: Catalog, tmp_path: Path) -> None:
    import trackeval

    out = exported(catalog, tmp_path / "out", "mot")
    dataset = trackeval.datasets.MotChallenge2DBox(
        {
            "GT_FOLDER": str(out / "train"),
            "TRACKERS_FOLDER": str(out / "trackers"),
            "OUTPUT_FOLDER": str(tmp_path / "scores"),
            "SKIP_SPLIT_FOL": True,
            "SEQMAP_FILE": str(out / "seqmaps" / "train.txt"),
            "BENCHMARK": "MOT17",
            "SPLIT_TO_EVAL": "train",
            "DO_PREPROC": False,
            "PRINT_CONFIG": False,
        }
    )
    assert dataset.seq_list == ["000004-v"] and dataset.tracker_list == ["sightflow"]
    data = dataset.get_preprocessed_seq_data(dataset.get_raw_seq_data("sightflow", "000004-v"), "pedestrian")
    assert data["num_gt_dets"] == data["num_tracker_dets"] == 1
    assert data["gt_dets"][3].tolist() == [[1.0, 1.0, 8.0, 7.0]]
    assert trackeval.metrics.HOTA().eval_sequence(data)["HOTA"].mean() == pytest.approx(1)


def test_every_result_for_label_studio_is_of_a_control_and_a_label_that_the_configuration_has(
    catalog: Catalog, tmp_path: Path
) -> None:
    out = exported(catalog, tmp_path / "out", "label-studio")
    for kind, tag in (("images", "Image"), ("videos", "Video")):
        config = ElementTree.fromstring((out / kind / "config.xml").read_text())
        (media,) = config.iter(tag)
        controls = {each.get("name"): each for each in config if each.get("toName") == media.get("name")}
        labels = {each.get("value") for each in config.iter("Label")}
        for task in json.loads((out / kind / "tasks-00000.json").read_text()):
            address = task["data"][media.get("value", "").removeprefix("$")]
            assert (out / unquote(address.partition("?d=")[2])).is_file()
            for result in task["predictions"][0]["result"]:
                assert controls[result["from_name"]].tag.lower() == result["type"]
                assert set(result["value"].get("labels") or result["value"].get(result["type"]) or []) <= labels


def test_label_studio_takes_tasks_and_configuration(catalog: Catalog, tmp_path: Path) -> None:
    """Not among the packages for tests: it brings an OpenCV that overwrites another one's files."""
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    out = exported(catalog, tmp_path / "out", "label-studio")
    for kind in ("images", "videos"):
        config = interface.LabelInterface((out / kind / "config.xml").read_text())
        tasks = json.loads((out / kind / "tasks-00000.json").read_text())
        assert tasks
        for task in tasks:
            for prediction in task["predictions"]:
                assert config.validate_prediction(prediction, return_errors=True) == []
