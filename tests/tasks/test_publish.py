"""One group of a run is committed in an order that a crash cannot spoil."""

from pathlib import Path

import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.tasks.publish import publish
from tests.tasks.runtime.hand_made import failed, row, uris


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(uri=f"file://{tmp_path}/catalog")


def keys(catalog: Catalog, name: str = "quarantine") -> pl.DataFrame:
    return catalog.scan(name).select("uri", "enrichment").collect().sort("uri")


def test_rows_and_failures_are_committed_and_settled_cases_leave_the_quarantine(catalog: Catalog) -> None:
    catalog.quarantine(pl.concat([failed(k).failed for k in (0, 1, 2)]))
    rows, failures = pl.concat([row(k).rows for k in (1, 5)]), failed(2).failed.with_columns(attempts=pl.lit(3))
    assert publish.fn(catalog, rows, failures, keys(catalog)) == 3
    assert keys(catalog, "enrichments")["uri"].to_list() == uris(1, 5)
    assert catalog.scan("quarantine").select("uri", "attempts").collect().sort("uri").rows() == [
        ("s3://b/0", 1),
        ("s3://b/2", 3),
    ]


def test_what_was_not_in_quarantine_when_the_run_began_is_not_looked_for(catalog: Catalog) -> None:
    assert publish.fn(catalog, row(1).rows, row(1).failed, keys(catalog)) == 1


def test_a_group_committed_again_leaves_the_same_rows(catalog: Catalog) -> None:
    catalog.quarantine(failed(1).failed)
    settled = keys(catalog)
    for _ in range(2):
        publish.fn(catalog, row(1).rows, failed(2).failed, settled)
    assert keys(catalog, "enrichments")["uri"].to_list() == uris(1)
    assert keys(catalog)["uri"].to_list() == uris(2)
