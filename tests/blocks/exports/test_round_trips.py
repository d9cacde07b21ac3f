"""What is exported comes back as it went out, within the loss that the format states, whatever it is called."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from sightflow.blocks.exports.export import export_format
from sightflow.blocks.exports.formats.label_studio import in_xml
from sightflow.blocks.exports.label_files.found import box_of
from sightflow.blocks.exports.label_import import label_reader
from sightflow.schemas.masks import decode_mask
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from sightflow.schemas.tables.labels import RESULT_COLUMNS
from tests.blocks.exports.random_rows import Row, catalogs, write

EDGES = ("x_min", "y_min", "x_max", "y_max")
EXAMPLES = int(os.environ.get("SIGHTFLOW_TEST_CATALOGS", "8"))
Expected = Callable[[Row], dict[str, Any] | None]


def read_back(rows: list[Row], format: str, *enrichments: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What a reader of label files finds in an export, by key."""
    facts = {each["uri"]: each for each in rows}
    asked = {each["enrichment"]: each["capability"] for each in rows}
    with TemporaryDirectory() as place:
        write(rows, export_format(format), Path(place), *enrichments)
        if format == "label-studio":
            annotate(Path(place))
        found = {}
        for each in label_reader(format)(Path(place)):
            if each.says_nothing:
                continue
            name = each.enrichment or enrichments[0]
            key = (each.object, name)
            assert key not in found
            found[key] = each.result({**facts[each.object], "capability": asked[name]})
    return found


def annotate(place: Path) -> None:
    """Accept every prediction."""
    for file in place.glob("*/tasks-*.json"):
        file.write_text(
            file.read_text().replace('"predictions": [{"model_version": "sightflow", ', '"annotations": [{')
        )


def check(rows: list[Row], format: str, expected: Expected, *enrichments: str, within: float = 1e-9) -> None:
    wanted = {
        (each["uri"], each["enrichment"]): result
        for each in rows
        if (not enrichments or each["enrichment"] in enrichments) and (result := expected(each)) is not None
    }
    found = read_back(rows, format, *enrichments) if wanted else {}
    assert found.keys() == wanted.keys()
    for key, result in found.items():
        assert same({name: value for name, value in result.items() if value is not None}, wanted[key], within), key


def same(found: Any, wanted: Any, within: float) -> bool:
    """Whether two results are equal, floating-point numbers to within so many pixels or seconds."""
    match found, wanted:
        case dict(), dict():
            return found.keys() == wanted.keys() and all(same(found[name], wanted[name], within) for name in found)
        case list(), list():
            return len(found) == len(wanted) and all(same(*pair, within) for pair in zip(found, wanted, strict=True))
        case float(), float():
            return abs(found - wanted) <= within
    return bool(found == wanted)


def all_of(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in RESULT_COLUMNS if row[name] is not None}


@settings(max_examples=EXAMPLES)
@given(catalogs())
@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_rows_come_back_to_the_letter(format: str, rows: list[Row]) -> None:
    check(rows, format, all_of, within=0)


@settings(max_examples=EXAMPLES)
@given(catalogs())
def test_parquet_is_the_table(rows: list[Row]) -> None:
    with TemporaryDirectory() as place:
        write(rows, export_format("parquet"), Path(place))
        assert_frame_equal(pl.read_parquet(f"{place}/rows-*.parquet"), pl.DataFrame(rows, schema=CATALOG_SCHEMA))


@settings(max_examples=EXAMPLES)
@given(catalogs())
def test_coco_holds_regions_and_captions_of_images(rows: list[Row]) -> None:
    def expected(row: Row) -> dict[str, Any] | None:
        held = row["media_kind"] == "image" and row["capability"] != "structured_extraction"
        return all_of(row) if held else None

    check(rows, "coco", expected)


def some_of(rows: list[Row], name: str, kind: str) -> bool:
    return any(each["enrichment"] == name and each["media_kind"] == kind for each in rows)


@settings(max_examples=EXAMPLES)
@given(catalogs().filter(lambda rows: some_of(rows, "objects", "image")))
def test_yolo_holds_boxes_without_scores(rows: list[Row]) -> None:
    def expected(row: Row) -> dict[str, Any] | None:
        bare = [region | {"score": None, "mask": None} for region in row["regions"] or ()]
        return {"regions": bare} if row["media_kind"] == "image" else None

    check(rows, "yolo", expected, "objects", within=1e-5)


def with_box_of_mask(region: Row, row: Row) -> Row:
    edges = box_of(decode_mask(region["mask"], row["width"], row["height"]))
    return region | dict(zip(EDGES, edges, strict=True))


@settings(max_examples=EXAMPLES)
@given(catalogs().filter(lambda rows: some_of(rows, "masks", "image")))
def test_yolo_holds_every_pixel_of_a_mask(rows: list[Row]) -> None:
    def expected(row: Row) -> dict[str, Any]:
        return {"regions": [with_box_of_mask(region, row) | {"score": None} for region in row["regions"]]}

    check(rows, "yolo", expected, "masks")


def tracks(row: Row, label: Callable[[str], str], point: Callable[[Row], Row]) -> dict[str, Any]:
    return {
        "tracks": [
            {**each, "label": label(each["label"]), "points": [place | point(place) for place in each["points"]]}
            for each in row["tracks"]
        ]
    }


@settings(max_examples=EXAMPLES)
@given(catalogs().filter(lambda rows: some_of(rows, "tracks", "video")))
def test_mot_holds_tracks_and_interpolated_places(rows: list[Row]) -> None:
    def expected(row: Row) -> dict[str, Any]:
        return tracks(row, lambda label: " ".join(label.split()), lambda place: {"score": None, "mask": None})

    check(rows, "mot", expected, "tracks")


@settings(max_examples=EXAMPLES)
@given(catalogs())
def test_label_studio_holds_texts_places_and_tracks(rows: list[Row]) -> None:
    def expected(row: Row) -> dict[str, Any] | None:
        if row["tracks"]:
            return tracks(row, in_xml, lambda place: {"score": None, "gap": False, "mask": None})
        if row["regions"] and row["media_kind"] == "image":
            is_mask = row["capability"] == "segmentation"
            bare = [with_box_of_mask(each, row) if is_mask else each | {"mask": None} for each in row["regions"]]
            return {"regions": [each | {"label": in_xml(each["label"])} for each in bare]}
        return all_of(row) if row["text"] or row["extracted"] else None

    check(rows, "label-studio", expected)


def left_out(rows: list[Row], format: str, *enrichments: str) -> Iterator[tuple[str, int]]:
    with TemporaryDirectory() as place:
        yield from write(rows, export_format(format), Path(place), *enrichments).items()


@settings(max_examples=EXAMPLES)
@given(catalogs())
def test_what_coco_leaves_out_is_counted(rows: list[Row]) -> None:
    told = dict(left_out(rows, "coco"))
    videos = sum(each["media_kind"] == "video" for each in rows)
    fields = sum(each["capability"] == "structured_extraction" for each in rows)
    assert told.get("rows of videos", 0) == videos and told.get("rows of structured_extraction", 0) == fields


@settings(max_examples=EXAMPLES)
@given(catalogs().filter(lambda rows: some_of(rows, "tracks", "video")), st.sampled_from(["mot", "label-studio"]))
def test_masks_of_tracks_that_are_left_out_are_counted(rows: list[Row], format: str) -> None:
    points = [point for each in rows for track in each["tracks"] or () for point in track["points"]]
    told = dict(left_out(rows, format, "tracks"))
    assert told.get("masks of tracks, beside their boxes", 0) == sum(point["mask"] is not None for point in points)
