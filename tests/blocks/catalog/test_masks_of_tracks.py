"""Masks of tracks in catalogs from before there were any: read as they are, and widened by the next writer."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from sightflow.blocks.catalog.appender import Appender
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.data_files import DataFiles
from sightflow.blocks.catalog.labels import Labels, label_of_row
from sightflow.blocks.catalog.maintenance import maintain
from sightflow.blocks.catalog.sql_views import connect
from sightflow.blocks.catalog.table_writes import delta_schema, later_columns
from sightflow.schemas.policy import Upkeep
from sightflow.schemas.tables.catalog import BOX_FIELDS, CATALOG_SCHEMA, TRACK, CatalogRow
from sightflow.schemas.tables.labels import checked_labels
from tests.schemas.tables.test_catalog import MASK, tracked

OLD_POINT = pl.Struct(
    {"frame_index": pl.Int64(), "seconds": pl.Float64(), **BOX_FIELDS, "score": pl.Float64(), "gap": pl.Boolean()}
)
OLD_TRACKS = pl.List(pl.Struct({"track_id": pl.Int64(), "label": pl.String(), "points": pl.List(OLD_POINT)}))
MASKS = "SELECT list_transform(tracks[1].points, lambda p: p.mask) FROM enrichments ORDER BY uri"


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """As it lay on disk before the places of tracks had masks: two objects, one without tracks."""
    made = Catalog(uri=f"file://{tmp_path}/catalog")
    given = [row | {"uri": f"s3://b/old{k}.mp4"} for k, row in enumerate([tracked(None, asked=False), tracked()])]
    given[1]["tracks"] = []
    old = pl.DataFrame(given, schema=CATALOG_SCHEMA).with_columns(pl.col("tracks").cast(OLD_TRACKS))
    write_deltalake(made.table_uri("enrichments"), old.to_arrow(), partition_by=["capability"])
    return made


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=CATALOG_SCHEMA)


def test_an_older_catalog_is_read_as_it_is(catalog: Catalog) -> None:
    before = catalog.version()
    rows = catalog.scan("enrichments").collect()
    assert rows.schema["tracks"] == pl.List(TRACK)
    assert sorted(len(tracks) for tracks in rows["tracks"]) == [0, 1]
    assert {point["mask"] for tracks in rows["tracks"] for each in tracks for point in each["points"]} == {None}
    assert connect(catalog).sql(MASKS).fetchall() == [([None],), (None,)]
    assert catalog.version() == before


@pytest.mark.parametrize("way", ["merge", "append"])
def test_an_older_catalog_is_written_and_its_rows_stay(catalog: Catalog, way: str) -> None:
    before = catalog.scan("enrichments").collect().sort("uri")
    new = frame(tracked(MASK) | {"uri": "s3://b/new.mp4"})
    if way == "merge":
        assert catalog.publish(new).inserted == 1
    else:
        done, left = Appender(catalog, "enrichments", catalog.version()).append(new)
        assert done.inserted == 1 and left.is_empty()
    rows = catalog.scan("enrichments").collect().sort("uri")
    assert rows.filter(pl.col("uri") != "s3://b/new.mp4").equals(before)
    wanted = [([MASK],), ([None],), (None,)]
    assert connect(catalog).sql(MASKS).fetchall() == wanted
    maintain(catalog, Upkeep(), even_if_not_due=True)
    assert connect(catalog).sql(MASKS).fetchall() == wanted
    seen: pd.DataFrame = DeltaTable(catalog.table_uri("enrichments")).to_pandas().sort_values("uri")
    assert [[point["mask"] for each in tracks for point in each["points"]] for tracks in seen["tracks"]] == [
        [MASK], [None], []
    ]  # fmt: skip
    version = catalog.version()
    catalog.files("enrichments")
    assert catalog.version() == version, "it is widened once"


def test_an_older_row_is_replaced_by_one_with_masks(catalog: Catalog) -> None:
    new = tracked(MASK) | {"uri": "s3://b/old0.mp4", "fingerprint": "e" * 32}
    assert catalog.publish(frame(new)).updated == 1
    assert connect(catalog).sql(MASKS).fetchall() == [([MASK],), (None,)]


def test_a_writer_before_whom_another_one_widens_the_table_writes_all_the_same(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = []

    def another_is_first(*asked: Any) -> Any:
        later = later_columns(*asked)
        if later and not others:
            others.append(DeltaTable(catalog.table_uri("enrichments")))
            fields = delta_schema(CatalogRow).fields
            others[0].alter.add_columns([field for field in fields if field.name in later])
        return later

    monkeypatch.setattr("sightflow.blocks.catalog.catalog.later_columns", another_is_first)
    done, left = Appender(catalog, "enrichments", catalog.version()).append(frame(tracked(MASK)))
    assert others and done.inserted == 1 and left.is_empty()
    assert connect(catalog).sql(MASKS).fetchall() == [([MASK],), ([None],), (None,)]


@pytest.mark.parametrize("turned", [False, True])
def test_labels_from_before_and_after_lie_side_by_side(
    catalog: Catalog, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file is looked at first: labels are saved and taken back, and those with masks have them in history."""

    def label(name: str, mask: str | None) -> dict[str, Any]:
        row = tracked(mask, asked=mask is not None) | {"uri": f"s3://b/{name}.mp4"}
        return label_of_row(row, {"tracks": row["tracks"]}, "ann")

    old = checked_labels([{**label(k, None), "revision": 1, "labelled_at": datetime.now(UTC)} for k in "012"])
    write_deltalake(catalog.table_uri("labels"), old.with_columns(pl.col("tracks").cast(OLD_TRACKS)).to_arrow())
    if turned:
        listed = DataFiles.listed
        monkeypatch.setattr(DataFiles, "listed", lambda files: listed(files)[::-1])
    labels = Labels(catalog)
    labels.save_many([label("0x", MASK), label("2x", MASK)], {})
    assert labels.save(label("1", MASK), 1)["revision"] == 2
    assert labels.save(label("1y", None), 0)["revision"] == 1
    labels.save(label("0x", None), 1)
    labels.take_back("s3://b/2x.mp4", "objects", 1)
    labels.take_back("s3://b/2.mp4", "objects", 1)

    def masks(name: str) -> list[str | None]:
        return [row["tracks"][0]["points"][0]["mask"] for row in labels.history(f"s3://b/{name}.mp4", "objects")]

    assert [masks(name) for name in ("0", "1", "2", "0x", "1y", "2x")] == [
        [None], [MASK, None], [None], [None, MASK], [None], [MASK],
    ]  # fmt: skip
