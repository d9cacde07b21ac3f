"""Extracted fields in a catalog: typed in SQL, read by others, and in catalogs that were made before there were any."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from sightflow.blocks.catalog.appender import Appender
from sightflow.blocks.catalog.catalog import SCHEMAS, Catalog
from sightflow.blocks.catalog.sql_views import connect, read_wide
from sightflow.schemas.extraction.json_schema import normalized
from tests.schemas.tables.test_catalog import caption, row

FIELDS = normalized(
    {
        "type": "object",
        "properties": {
            "shop": {"type": "string"},
            "total": {"type": "number"},
            "day": {"type": "string", "format": "date"},
            "count": {"type": "integer"},
            "odd \"name'": {"type": "boolean"},
            "lines": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
        },
        "required": ["shop"],
    }
)


def receipt(uri: str, fields: Any, schema: Any = FIELDS, **changes: Any) -> dict[str, Any]:
    said = {"capability": "structured_extraction", "enrichment": "receipt", "regions": None}
    said |= {"parameters": json.dumps({"schema": schema}), "extracted": json.dumps(fields)}
    return row(uri=uri, fingerprint=f"{uri} {schema}"[:32], **said | changes)


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMAS["enrichments"])


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(uri=f"file://{tmp_path}/catalog")


def test_fields_are_typed_columns_and_what_is_missing_is_null(catalog: Catalog) -> None:
    whole = {
        "shop": "Corner",
        "total": 2.5,
        "day": "2026-03-01",
        "count": 3,
        "odd \"name'": True,
        "lines": [{"name": "Tea"}],
    }
    catalog.publish(frame(receipt("s3://b/1.jpg", whole), receipt("s3://b/2.jpg", {"shop": "Kiosk"})))
    catalog.publish(frame(caption(uri="s3://b/3.jpg")))
    connection = connect(catalog)
    found = connection.sql('SELECT receipt.shop, receipt.total, receipt."odd ""name\'" FROM catalog ORDER BY uri')
    assert found.fetchall() == [("Corner", 2.5, True), ("Kiosk", None, None), (None, None, None)]
    each = connection.sql("SELECT receipt.* FROM catalog")
    kinds = dict(zip(each.columns, each.types, strict=True))
    assert {name: str(kind) for name, kind in kinds.items()} == {
        "shop": "VARCHAR", "total": "DOUBLE", "day": "DATE", "count": "BIGINT", "odd \"name'": "BOOLEAN",
        "lines": 'STRUCT("name" VARCHAR)[]',
    }  # fmt: skip
    assert connection.sql(
        "SELECT sum(receipt.total) FROM catalog WHERE receipt.day > DATE '2026-01-01'"
    ).fetchall() == [(2.5,)]
    wide = read_wide(catalog)
    assert wide.filter(uri="s3://b/1.jpg")["receipt"].struct.field("count").to_list() == [3]
    table = catalog.table("enrichments").to_pyarrow_table()
    assert json.loads(pd.DataFrame(table.to_pandas()).set_index("uri").loc["s3://b/1.jpg", "extracted"]) == whole
    assert duckdb.from_arrow(table).filter("extracted->>'$.shop' = 'Kiosk'").aggregate("count(*)").fetchall() == [(1,)]


def test_while_rows_of_an_older_schema_stand_the_newest_types_the_column(catalog: Catalog) -> None:
    later = normalized({"type": "object", "properties": {"shop": {"type": "string"}, "tax": {"type": "integer"}}})
    first = receipt("s3://b/1.jpg", {"shop": "Corner", "total": 2.5})
    second = receipt("s3://b/2.jpg", {"tax": 7}, later)
    second["inferred_at"] = first["inferred_at"] + timedelta(days=1)
    catalog.publish(frame(first, second))
    found = connect(catalog).sql("SELECT receipt.shop, receipt.tax FROM catalog ORDER BY uri").fetchall()
    assert found == [("Corner", None), (None, 7)]
    with pytest.raises(duckdb.BinderException, match="total"):
        connect(catalog).sql("SELECT receipt.total FROM catalog")


NO_SCHEMAS = [
    "{}",
    "not JSON",
    "[]",
    '{"schema": "os.system"}',
    '{"schema": {"type": "object", "properties": {"a": {"type": "BLOB"}}}}',
    '{"schema": {"$ref": "file:///etc/passwd"}}',
    '{"schema": ' + "[" * 20_000,
]


@pytest.mark.parametrize("parameters", NO_SCHEMAS)
def test_a_schema_in_a_catalog_that_is_none_leaves_the_text(catalog: Catalog, parameters: str) -> None:
    catalog.publish(frame(receipt("s3://b/1.jpg", {"shop": "Corner"}, parameters=parameters)))
    assert connect(catalog).sql("SELECT receipt FROM catalog").fetchall() == [('{"shop": "Corner"}',)]


# --- catalogs of an earlier version -------------------------------------------------------------


def old_catalog(catalog: Catalog) -> Catalog:
    """As it lay on disk before rows had `extracted`."""
    rows = frame(caption(uri="s3://b/old.jpg", fingerprint="f" * 32)).drop("extracted")
    place = catalog.table_uri("enrichments")
    write_deltalake(place, rows.to_arrow(), partition_by=["capability"])
    return catalog


def test_an_older_catalog_is_read_as_it_is(catalog: Catalog) -> None:
    old_catalog(catalog)
    before = catalog.version()
    rows = catalog.scan("enrichments").collect()
    assert rows["extracted"].to_list() == [None] and rows["text"].to_list() == ["a dog"]
    connection = connect(catalog)
    assert connection.sql("SELECT caption, uri FROM catalog").fetchall() == [("a dog", "s3://b/old.jpg")]
    assert connection.sql("SELECT extracted FROM enrichments").fetchall() == [(None,)]
    assert catalog.version() == before


@pytest.mark.parametrize("way", ["merge", "append"])
def test_an_older_catalog_is_written_and_its_rows_stay(catalog: Catalog, way: str) -> None:
    old_catalog(catalog)
    new = frame(receipt("s3://b/new.jpg", {"shop": "Corner"}))
    if way == "merge":
        assert catalog.publish(new).inserted == 1
    else:
        appender = Appender(catalog, "enrichments", catalog.version())
        done, left = appender.append(new)
        assert done.inserted == 1 and left.is_empty()
    rows = catalog.scan("enrichments").collect().sort("uri")
    assert rows.select("uri", "extracted").rows() == [
        ("s3://b/new.jpg", '{"shop": "Corner"}'),
        ("s3://b/old.jpg", None),
    ]
    assert rows["fingerprint"].to_list()[1] == "f" * 32
    found = connect(catalog).sql("SELECT uri, receipt.shop, caption FROM catalog ORDER BY uri").fetchall()
    assert found == [("s3://b/new.jpg", "Corner", None), ("s3://b/old.jpg", None, "a dog")]
    assert connect(catalog, version=0).sql("SELECT caption FROM catalog").fetchall() == [("a dog",)]
    field = next(f for f in DeltaTable(catalog.table_uri("enrichments")).schema().fields if f.name == "extracted")
    assert "structured extraction" in field.metadata["comment"]


def test_two_writers_that_meet_an_older_catalog_both_write(catalog: Catalog) -> None:
    old_catalog(catalog)
    first, second = (Appender(catalog, "enrichments", catalog.version()) for _ in range(2))
    for number, appender in enumerate((first, second)):
        done, left = appender.append(frame(receipt(f"s3://b/{number}.jpg", {"shop": "Corner"})))
        assert done.inserted == 1 and left.is_empty()
    assert catalog.scan("enrichments").collect().height == 3
