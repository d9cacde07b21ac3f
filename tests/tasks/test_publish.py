"""One group of a run is committed in an order that a crash cannot spoil."""

from pathlib import Path

import polars as pl
import pytest

from sightflow.blocks.catalog.appender import key_frame
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.run_writer import RunWriter
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
    assert publish.fn(RunWriter(catalog, None), rows, failures, key_frame()) == 3
    assert keys(catalog, "enrichments")["uri"].to_list() == uris(1, 5)
    assert catalog.scan("quarantine").select("uri", "attempts").collect().sort("uri").rows() == [
        ("s3://b/0", 1),
        ("s3://b/2", 3),
    ]


def test_what_was_not_in_quarantine_when_the_run_began_is_not_looked_for(catalog: Catalog) -> None:
    assert publish.fn(RunWriter(catalog, None), row(1).rows, row(1).failed, key_frame()) == 1


def test_a_group_committed_again_leaves_the_same_rows(catalog: Catalog) -> None:
    catalog.quarantine(failed(1).failed)
    writer = RunWriter(catalog, None)
    for _ in range(2):
        publish.fn(writer, row(1).rows, failed(2).failed, key_frame())
    assert keys(catalog, "enrichments")["uri"].to_list() == uris(1)
    assert keys(catalog)["uri"].to_list() == uris(2)


def test_rows_of_known_keys_are_replaced_and_the_others_appended(catalog: Catalog) -> None:
    catalog.publish(row(1).rows)
    version = catalog.version()
    changed = row(1).rows.with_columns(fingerprint=pl.lit("0123456789"))
    rows = pl.concat([changed, row(2).rows])
    assert publish.fn(RunWriter(catalog, version), rows, row(1).failed, key_frame([("s3://b/1", "asked")])) == 2
    found = catalog.scan("enrichments").select("uri", "fingerprint").collect().sort("uri")
    assert found.rows() == [("s3://b/1", "0123456789"), ("s3://b/2", row(2).rows["fingerprint"][0])]
