"""Readers skip a file by what its entry in the log says of it, so what it says has to be right for any text."""

from pathlib import Path

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.file_content import _above, _below
from sightflow.blocks.catalog.maintenance import maintain
from sightflow.blocks.catalog.sql_views import connect
from sightflow.schemas.failure import StoreError
from sightflow.schemas.policy import Upkeep
from tests.blocks.catalog.test_catalog import rows

FEW_FILES = Upkeep(compact_files=2)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(uri=f"file://{tmp_path}/catalog")


def told(catalog: Catalog, condition: str) -> list[int]:
    """How many rows meet a condition, by our own query, DuckDB over pyarrow, and polars."""
    dataset = DeltaTable(_path(catalog)).to_pyarrow_dataset()
    question = f"SELECT count(*) FROM enrichments WHERE {condition}"
    here = duckdb.connect()
    here.register("enrichments", dataset)
    ours = [connect(catalog).execute(question).fetchall()[0][0], here.execute(question).fetchall()[0][0]]
    return [*ours, catalog.scan("enrichments").sql(question.replace("enrichments", "self")).collect().item()]


@pytest.mark.parametrize("long", ["y" * 300, "\U0010ffff" * 300, "z" * 9000], ids=["300", "last", "9000"])
def test_a_long_text_hides_no_row_beside_it(catalog: Catalog, long: str) -> None:
    for text in ("short", long, None):
        k = {"short": 0, long: 1, None: 2}[text]
        catalog.publish(rows(range(k, k + 1), text=text))  # type: ignore[arg-type]
    for changed in (
        lambda: catalog.publish(rows(range(1), "two", "short")),
        lambda: maintain(catalog, FEW_FILES, True),
    ):
        changed()
        for condition, count in {
            "text = 'short'": 1, "text <> 'short'": 1, "text IS NULL": 1, "text IS NOT NULL": 2,
            "text IN ('short', 'x')": 1, f"text = '{long}'": 1, f"text >= '{long[:280]}'": 1, "NOT (text = 'x')": 2,
        }.items():  # fmt: skip
            assert told(catalog, condition) == [count] * 3, condition


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), st.integers(1, 300))
def test_a_shortened_bound_is_a_bound(text: str, more: int) -> None:
    whole = text + text[-1:] * more
    assert _below("text", whole).encode() <= whole.encode() <= _above("text", whole).encode()
    assert _below("uri", whole) == _above("uri", whole) == whole


@pytest.mark.parametrize("name", ["𠮷野家", "😀", "é\u2028", "\U0010ffff", "a'b\"c%"])
def test_a_key_of_any_characters_is_found_again(catalog: Catalog, name: str) -> None:
    frame = rows(range(2)).with_columns(uri=pl.Series([f"s3://b/{name}.jpg", "s3://b/z.jpg"]))
    catalog.publish(frame)
    assert catalog.publish(frame.with_columns(fingerprint=pl.lit("two"))).updated == 2
    maintain(catalog, FEW_FILES, True)
    assert catalog.publish(frame.with_columns(fingerprint=pl.lit("three"))).updated == 2
    quoted = f"s3://b/{name}.jpg".replace("'", "''")
    assert told(catalog, f"uri = '{quoted}'") == [1, 1, 1]


def without_fields(catalog: Catalog, keys: range) -> None:
    """As a version of this program did that knew no column `extracted`."""
    earlier = rows(keys).drop("extracted").to_arrow()
    write_deltalake(_path(catalog), earlier, mode="append", partition_by=["capability"])


def test_a_table_from_before_a_column_is_looked_after_and_its_nulls_are_found(catalog: Catalog) -> None:
    for k in range(3):
        without_fields(catalog, range(k, k + 1))
    maintain(catalog, FEW_FILES, True)
    assert catalog.scan("enrichments").collect().height == 3
    fields = rows(range(3, 5)).with_columns(extracted=pl.lit('{"a": 1}'))
    catalog.publish(fields)
    connection = connect(catalog)
    for condition, count in {"extracted IS NULL": 3, "extracted IS NOT NULL": 2}.items():
        question = f"SELECT count(*) FROM enrichments WHERE {condition}"
        assert connection.execute(question).fetchall() == [(count,)], condition


def _path(catalog: Catalog) -> str:
    return f"{catalog.uri}/enrichments".removeprefix("file://")


def test_a_table_with_deletion_vectors_is_not_written(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog.publish(rows(range(2)))
    protocol = DeltaTable(_path(catalog)).protocol()
    hidden = type("Protocol", (), {**protocol._asdict(), "reader_features": ["deletionVectors"]})
    monkeypatch.setattr(DeltaTable, "protocol", lambda self: hidden)
    with pytest.raises(StoreError, match="deletion vectors"):
        catalog.publish(rows(range(2), "two"))
