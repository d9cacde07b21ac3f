"""SQL over a catalog of somebody else's: its names are data, and the sandbox is closed before any is read."""

from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.sql_views import connect
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import RESERVED_NAMES, Enrichment
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
