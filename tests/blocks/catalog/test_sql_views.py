"""SQL over a catalog of somebody else's: its names are data, and the sandbox is closed before any is read."""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.sql_views import connect, wide_view
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import RESERVED_NAMES, Enrichment
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from tests.blocks.catalog.test_catalog import rows


def catalog_with(folder: Path, *names: str, **columns: str) -> Catalog:
    catalog = Catalog.at(folder)
    for name in names:
        catalog.publish(rows(range(2), enrichment=name).with_columns(**{k: pl.lit(v) for k, v in columns.items()}))
    return catalog


@pytest.mark.parametrize(
    "name",
    [
        "x') AS a, (SELECT 1) AS b FROM enrichments GROUP BY uri; COPY (SELECT 42) TO '{out}'; --",
        "x\"; COPY (SELECT 42) TO '{out}'; --",
        "'; ATTACH '{out}' AS stolen; --",
        'a"b',
        "a'b",
        "a\nb",
        "; DROP VIEW catalog",
        "",
    ],
)
def test_a_name_that_no_spec_can_give_is_data_and_has_no_column(tmp_path: Path, name: str) -> None:
    out = tmp_path / "stolen"
    hostile = name.format(out=out)
    connection = connect(catalog_with(tmp_path / "catalog", hostile, "caption"))
    columns = [column[0] for column in connection.execute("SELECT * FROM catalog").description]
    assert hostile not in columns and columns.count("caption") == 1
    names = connection.execute("SELECT enrichment FROM enrichments").fetchall()
    assert names.count((hostile,)) == 2
    assert not out.exists()
    assert connection.execute("SELECT count(*) FROM catalog").fetchall() == [(2,)]


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_no_name_breaks_the_view(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    connection = connect(catalog_with(tmp_path_factory.mktemp("c") / "catalog", name))
    assert connection.execute("SELECT count(*) FROM catalog").fetchall() == [(2,)]


def test_a_capability_that_is_not_known_and_a_name_that_would_hide_a_column_have_none(tmp_path: Path) -> None:
    catalog = catalog_with(tmp_path / "catalog", "caption", "width")
    catalog_with(tmp_path / "catalog", "odd", capability="mind_reading")
    connection = connect(catalog)
    columns = [column[0] for column in connection.execute("SELECT * FROM catalog").description]
    assert columns.count("width") == 1 and "odd" not in columns and "caption" in columns
    assert connection.execute("SELECT enrichment FROM enrichments").fetchall().count(("odd",)) == 2


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_an_enrichment_cannot_hide_behind_a_column_of_the_view(name: str) -> None:
    with pytest.raises(ValueError, match=f"cannot be called {name}"):
        Enrichment(capability=Capability.IMAGE_CAPTIONING, name=name)


@pytest.mark.parametrize("name", ["Width", "URI", "Caption", "caption "])
def test_nor_can_one_that_sql_takes_for_the_same(name: str) -> None:
    """SQL does not tell capitals from small letters, so a name has none."""
    with pytest.raises(ValueError, match="name"):
        Enrichment(capability=Capability.IMAGE_CAPTIONING, name=name)


def test_the_results_come_first_and_the_bookkeeping_last(tmp_path: Path) -> None:
    connection = connect(catalog_with(tmp_path / "catalog", "select", "caption"))
    columns = [column[0] for column in connection.execute("SELECT * FROM catalog").description]
    about_the_object = ["media_kind", "width", "height", "duration", "object_version", "inferred_at"]
    assert columns == ["uri", "caption", "select", *about_the_object]
    assert {*columns} - {"caption", "select"} == RESERVED_NAMES


def test_a_name_of_two_capabilities_has_one_column_of_the_newest_kind(tmp_path: Path) -> None:
    catalog = catalog_with(tmp_path / "catalog", "what")
    now = {"capability": pl.lit("object_detection"), "text": pl.lit(None), "regions": pl.lit([])}
    newest = {"uri": pl.lit("s3://b/new.jpg"), "inferred_at": pl.lit(datetime(2026, 1, 1, tzinfo=UTC))}
    catalog.publish(rows(range(1), enrichment="what").with_columns(**now, **newest).cast(dict(CATALOG_SCHEMA)))
    found = connect(catalog).execute("SELECT what FROM catalog ORDER BY uri").fetchall()
    assert found == [(None,), (None,), ([],)]


def test_another_engine_has_the_view_from_its_sql(tmp_path: Path) -> None:
    catalog = catalog_with(tmp_path / "catalog", "caption", "select")
    bare = duckdb.connect()
    bare.register("enrichments", DeltaTable(tmp_path / "catalog" / "enrichments").to_pyarrow_dataset())
    theirs = bare.execute(f"CREATE VIEW v AS {wide_view(catalog)}; SELECT * FROM v ORDER BY uri").fetchall()
    assert theirs == connect(catalog).execute("SELECT * FROM catalog ORDER BY uri").fetchall()
    assert len(theirs) == 2


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{out}'",
        "SELECT * FROM read_csv('/etc/hostname')",
        "SELECT * FROM '/etc/hostname'",
        "ATTACH '{out}' AS x",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
        "SELECT getenv('HOME')",
        "EXPORT DATABASE '{out}'",
    ],
)
def test_a_query_reads_the_catalog_and_nothing_else(tmp_path: Path, sql: str) -> None:
    connection = connect(catalog_with(tmp_path / "catalog", "caption"))
    with pytest.raises(duckdb.Error):
        connection.execute(sql.format(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
