"""An export is whole or goes on; it writes where it may, selects in the sandbox, and tells what it could not have."""

import fcntl
import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.labels import Labels, label_of_row
from sightflow.blocks.exports.export import ExportReport, export, export_format
from sightflow.blocks.exports.folder import ExportFolder
from sightflow.blocks.exports.formats import FORMATS
from sightflow.blocks.exports.media_files import MediaFiles
from sightflow.blocks.exports.selected_rows import Wanted
from sightflow.blocks.store.media_places import MediaPlaces
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import SightflowError, SpecError
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from tests.blocks.exports.random_rows import write
from tests.schemas.tables.test_catalog import MASK, caption, region, row

POINT = {"frame_index": 3, "seconds": 0.1, **dict.fromkeys(("x_min", "y_min"), 1.0), "x_max": 9.0, "y_max": 8.0}
TRACKS = [{"track_id": 4, "label": "dog", "points": [{**POINT, "score": 0.5, "gap": False}]}]


def made(folder: Path, count: int = 3) -> list[dict[str, Any]]:
    """The rows of some images and a file that is called a video, which are there."""
    folder.mkdir()
    for k in range(count):
        Image.new("RGB", (40, 30), (k, 0, 0)).save(folder / f"{k}.png")
    (folder / "v.mp4").write_bytes(b"a video")
    rows = []
    for uri, version in ObjectStore().inventory([f"file://{folder}/"]).select("uri", "object_version").iter_rows():
        about = {"uri": uri, "object_version": version}
        if uri.endswith("mp4"):
            video = {"media_kind": "video", "duration": 2.0, "frame_rate": 25.0, "regions": None}
            rows.append(row(**about, **video, enrichment="tracks", capability="object_tracking", tracks=TRACKS))
            continue
        rows.append(row(**about))
        rows.append(caption(**about, text=f"picture {Path(uri).stem}"))
        rows.append(row(**about, enrichment="masks", capability="segmentation", regions=[region(mask=MASK)]))
    return rows


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    catalog = Catalog.at(tmp_path / "catalog")
    catalog.publish(pl.DataFrame(made(tmp_path / "media"), schema=CATALOG_SCHEMA))
    return catalog


def exported(catalog: Catalog, out: Path, format: str = "coco", media: Any = "copy", **wanted: Any) -> ExportReport:
    return export(catalog, Wanted(**wanted), export_format(format), out, media, 10**6)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


ONE = {"yolo": ("objects",), "mot": ("tracks",)}


@pytest.mark.parametrize("format", FORMATS)
def test_a_killed_export_goes_on_and_ends_as_an_undisturbed_one(
    catalog: Catalog, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before every file that it gives its name, and begun again each time."""
    wanted = {"enrichments": ONE.get(format, ())}
    exported(catalog, tmp_path / "whole", format, **wanted)
    place, placed = ExportFolder.place, list[str]()

    def dies(self: ExportFolder, path: Path, name: str, *more: bool) -> None:
        if name not in placed:
            placed.append(name)
            place(self, path, name, *more)
            raise KeyboardInterrupt
        place(self, path, name, *more)

    def dies_first(self: ExportFolder, path: Path, name: str, *more: bool) -> None:
        if ("before", name) not in before:
            before.append(("before", name))
            raise KeyboardInterrupt
        dies(self, path, name, *more)

    before = list[tuple[str, str]]()
    monkeypatch.setattr(ExportFolder, "place", dies_first)
    for _ in range(200):
        try:
            exported(catalog, tmp_path / "killed", format, **wanted)
            break
        except KeyboardInterrupt:
            continue
    assert len(placed) > 3
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_it_goes_on_with_the_rows_that_it_began_with(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(catalog, tmp_path / "whole", "jsonl", media="link")
    with monkeypatch.context() as patch:
        patch.setattr("sightflow.blocks.exports.formats.tabular.JsonLines.write_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            exported(catalog, tmp_path / "killed", "jsonl", media="link")
    catalog.prune(catalog.scan("enrichments").select("uri", "enrichment", "fingerprint").collect())
    exported(catalog, tmp_path / "killed", "jsonl", media="link")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def interrupted(*_: Any) -> Iterator[Any]:
    raise KeyboardInterrupt


def test_a_folder_that_holds_anything_else_is_left_alone(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(SpecError, match="is not empty"):
        exported(catalog, tmp_path / "mine")
    assert files(tmp_path / "mine") == {"thesis.txt": b"years of work"}
    exported(catalog, tmp_path / "done")
    before = files(tmp_path / "done")
    with pytest.raises(SpecError, match="holds an export that is done"):
        exported(catalog, tmp_path / "done", "jsonl")
    assert files(tmp_path / "done") == before


def test_an_export_is_not_gone_on_with_by_other_options_nor_by_two_at_once(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sightflow.blocks.exports.formats.tabular.JsonLines.write_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        exported(catalog, tmp_path / "out", "jsonl")
    monkeypatch.undo()
    with pytest.raises(SpecError, match="begun with other options"):
        exported(catalog, tmp_path / "out", "jsonl", where="width > 1")
    with (tmp_path / "out" / ".sightflow-export" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SightflowError, match="another export is writing"):
            exported(catalog, tmp_path / "out", "jsonl")
    assert exported(catalog, tmp_path / "out", "jsonl").rows == 10


def test_where_chooses_rows_or_objects_and_enrichments_by_name(catalog: Catalog, tmp_path: Path) -> None:
    def chosen(number: int, **wanted: Any) -> set[tuple[str, str]]:
        exported(catalog, tmp_path / f"{number}", "jsonl", media="link", **wanted)
        lines = (tmp_path / f"{number}" / "rows-00000.jsonl").read_text().splitlines()
        return {(Path(one["uri"]).name, one["enrichment"]) for one in map(json.loads, lines)}

    names = ("caption", "masks", "objects")
    assert chosen(1, where="enrichment = 'masks' -- a comment") == {(f"{k}.png", "masks") for k in range(3)}
    assert chosen(2, where="caption = 'picture 1'") == {("1.png", name) for name in names}
    assert chosen(3, where="caption LIKE 'picture%'", enrichments=("objects", "caption")) == {
        (f"{k}.png", name) for k in range(3) for name in ("objects", "caption")
    }
    assert chosen(4, where="tracks IS NOT NULL") == {("v.mp4", "tracks")}
    with pytest.raises(SpecError, match="no row of enrichments is selected"):
        chosen(5, where="width > 9000")


@pytest.mark.parametrize(
    "where",
    [
        "uri IN (SELECT content FROM read_text('/etc/passwd'))",
        "uri IN (SELECT * FROM read_csv('/etc/passwd'))",
        "true); COPY enrichments TO '{place}/stolen.csv'; SELECT (true",
        "true); ATTACH '{place}/stolen.db'; SELECT (true",
        "SELECT",
        "no_such_column = 1",
        "1 = 1; SELECT 2",
    ],
)
def test_where_is_asked_in_the_sandbox(catalog: Catalog, tmp_path: Path, where: str) -> None:
    with pytest.raises(SpecError):
        exported(catalog, tmp_path / "out", "jsonl", where=where.format(place=tmp_path))
    assert not list(tmp_path.glob("stolen*"))
    assert not files(tmp_path / "out"), "nothing is gone on with"


def test_a_format_of_one_enrichment_asks_which(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="choose one with --enrichment: masks, objects"):
        exported(catalog, tmp_path / "yolo", "yolo")
    with pytest.raises(SpecError, match="have none"):
        exported(catalog, tmp_path / "yolo", "mot", enrichments=("caption",))
    told = exported(catalog, tmp_path / "mot", "mot").left_out
    assert told == {"rows of object_detection": 3, "rows of image_captioning": 3, "rows of segmentation": 3}
    with pytest.raises(SpecError, match="allowed: coco, yolo"):
        export_format("voc")


def test_media_that_changed_or_went_are_told_and_tried_again(catalog: Catalog, tmp_path: Path) -> None:
    media = tmp_path / "media"
    kept = (media / "0.png").read_bytes(), (media / "0.png").stat()
    (media / "0.png").write_bytes(b"another")
    moved = (media / "1.png").rename(tmp_path / "1.png")
    report = exported(catalog, tmp_path / "out")
    assert report.failed == 2 and {Path(uri).name for uri, _ in report.failures} == {"0.png", "1.png"}
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == ["2.png"]
    moved.rename(media / "1.png")
    (media / "0.png").write_bytes(kept[0])
    os.utime(media / "0.png", ns=(kept[1].st_atime_ns, kept[1].st_mtime_ns))
    assert exported(catalog, tmp_path / "out").failed == 0
    assert (tmp_path / "out" / "images" / "0.png").read_bytes() == kept[0]


@pytest.mark.parametrize("format", ["webdataset", "hf", "coco"])
def test_media_that_are_gone_for_good_can_be_done_without(catalog: Catalog, tmp_path: Path, format: str) -> None:
    (tmp_path / "media" / "1.png").unlink()
    for _ in range(2):
        assert exported(catalog, tmp_path / "out", format).failed == 1
    assert not list((tmp_path / "out").rglob("*.tar")) and not (tmp_path / "out" / "sightflow-export.json").exists()
    export(catalog, Wanted(), export_format(format), tmp_path / "out", "copy", 10**6, skip_missing=True)
    told = json.loads((tmp_path / "out" / "sightflow-export.json").read_text())
    assert told["missing_media"] == 1 and told["missing"][0]["uri"].endswith("1.png")


def test_an_object_larger_than_the_bound_is_told(catalog: Catalog, tmp_path: Path) -> None:
    report = export(catalog, Wanted(), export_format("coco"), tmp_path / "out", "copy", 10)
    assert report.failed == 3 and "limit is 10" in report.failures[0][1]


def test_links_are_to_the_files_themselves_and_buckets_are_named(catalog: Catalog, tmp_path: Path) -> None:
    catalog.publish(pl.DataFrame([row(uri="s3://b/far.jpg")], schema=CATALOG_SCHEMA))
    exported(catalog, tmp_path / "out", media="link")
    links = {path.name: path.resolve() for path in (tmp_path / "out" / "images").rglob("*.png")}
    assert sorted(path.parent.name for path in (tmp_path / "out" / "images").rglob("*.png")) == ["media"] * 3
    assert links == {f"{k}.png": tmp_path / "media" / f"{k}.png" for k in range(3)}
    images = json.loads((tmp_path / "out" / "annotations" / "objects.json").read_text())["images"]
    assert "s3://b/far.jpg" in [image["uri"] for image in images]


def test_rows_of_an_earlier_version_of_their_object_are_left_out_of_what_is_by_object(
    catalog: Catalog, tmp_path: Path
) -> None:
    newer = catalog.scan("enrichments").filter(enrichment="masks").collect()
    newer = newer.with_columns(pl.col("inferred_at").dt.offset_by("1d"), object_version=pl.lit("new"))
    catalog.publish(newer.with_columns(fingerprint=pl.lit("newer and newer")))
    report = exported(catalog, tmp_path / "coco", media="link")
    assert report.left_out["rows about an earlier version of their object"] == 6
    assert exported(catalog, tmp_path / "jsonl", "jsonl", media="link").rows == 10


def test_a_full_disk_is_told_in_plain_words(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MediaFiles, "place", full)
    with pytest.raises(SightflowError, match="make room and give the same command again"):
        exported(catalog, tmp_path / "out")
    monkeypatch.undo()
    assert exported(catalog, tmp_path / "out").failed == 0


def test_labels_are_exported_but_for_those_of_objects_that_have_changed(catalog: Catalog, tmp_path: Path) -> None:
    rows = catalog.scan("enrichments").filter(enrichment="caption").sort("uri").collect().rows(named=True)
    labels = Labels(catalog)
    labels.save_many([label_of_row(each, {"text": "said by ann"}, "ann") for each in rows], {})
    changed = {**rows[0], "object_version": "new", "sha256": "d" * 64, "fingerprint": "another one"}
    changed["inferred_at"] += timedelta(days=1)
    catalog.publish(pl.DataFrame([changed], schema=CATALOG_SCHEMA))
    assert exported(catalog, tmp_path / "out", media="link", table="labels").rows == 2
    content = json.loads((tmp_path / "out" / "annotations" / "caption.json").read_text())
    assert [each["caption"] for each in content["annotations"]] == ["said by ann"] * 2


def test_the_report_says_what_and_what_not(catalog: Catalog, tmp_path: Path) -> None:
    exported(catalog, tmp_path / "out", where="true")
    told = json.loads((tmp_path / "out" / "sightflow-export.json").read_text())
    assert told["format"] == "coco" and told["catalog"] == catalog.uri and told["where"] == "true"
    assert (told["objects"], told["rows"], told["left_out"]) == (4, 10, {"rows of videos": 1})
    assert told["loses"] == list(export_format("coco").loses)
    assert not (tmp_path / "out" / ".sightflow-export").exists()


def test_a_link_is_made_to_the_file_that_the_rows_are_about_and_to_no_other(catalog: Catalog, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "media" / "0.png")
    (tmp_path / "media" / "1.png").unlink()
    report = exported(catalog, tmp_path / "out", media="link")
    assert [Path(uri).name for uri, _ in report.failures] == ["0.png", "1.png"]
    assert [why.split()[0] for _, why in report.failures] == ["replaced", "deleted"]
    assert [path.name for path in (tmp_path / "out" / "images").iterdir()] == ["2.png"]


@pytest.mark.parametrize("media", ["link", "copy"])
def test_files_of_this_machine_are_not_taken_because_a_catalog_of_a_bucket_names_them(
    catalog: Catalog, tmp_path: Path, media: Any
) -> None:
    places = MediaPlaces("s3://somebody/catalog")
    wanted, format = Wanted(), export_format("webdataset" if media == "copy" else "coco")
    report = export(catalog, wanted, format, tmp_path / "out", media, 10**6, places=places)
    assert report.failed and all("--media-from" in why for _, why in report.failures)
    assert not list((tmp_path / "out").glob("images/*"))


@pytest.mark.parametrize("format", ["hf", "webdataset", "coco", "label-studio", "jsonl"])
def test_media_that_could_not_be_had_are_tried_again_in_every_format(
    catalog: Catalog, tmp_path: Path, format: str
) -> None:
    """Also where they lie within a file with others: the same command does not take that for done."""
    away = tmp_path / "media" / "1.png"
    away.rename(tmp_path / "kept.png")
    for _ in range(2):
        assert exported(catalog, tmp_path / "out", format).failed == 1
        assert not (tmp_path / "out" / "sightflow-export.json").exists()
    (tmp_path / "kept.png").rename(away)
    assert exported(catalog, tmp_path / "out", format).failed == 0
    exported(catalog, tmp_path / "whole", format)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_column_of_datasets_is_of_one_enrichment(tmp_path: Path) -> None:
    rows = [caption(uri="s3://b/a.jpg", enrichment=name, text=name) for name in ("image", "image_", "sha256")]
    write(rows, export_format("hf"), tmp_path)
    (found,) = pl.read_parquet(tmp_path / "images" / "*.parquet").to_dicts()
    assert (found["image__"], found["image_"], found["sha256_"]) == ("image", "image_", "sha256")
