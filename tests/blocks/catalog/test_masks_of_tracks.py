"""Masks of tracks in catalogs from before there were any: read as they are, and widened by the next writer."""

from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from sightflow.blocks.catalog.appender import Appender
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.maintenance import maintain
from sightflow.blocks.catalog.sql_views import connect
from sightflow.schemas.policy import Upkeep
from sightflow.schemas.tables.catalog import BOX_FIELDS, CATALOG_SCHEMA, TRACK
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


def test_two_writers_that_meet_an_older_catalog_both_write(catalog: Catalog) -> None:
    first, second = (Appender(catalog, "enrichments", catalog.version()) for _ in range(2))
    for number, appender in enumerate((first, second)):
        done, left = appender.append(frame(tracked(MASK) | {"uri": f"s3://b/{number}.mp4"}))
        assert done.inserted == 1 and left.is_empty()
    assert connect(catalog).sql(MASKS).fetchall() == [([MASK],), ([MASK],), ([None],), (None,)]
