"""Catalogs with Google and Azure: commits are conditional puts, so that of two writers none is lost."""

from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.sql_views import connect
from sightflow.schemas.failure import StoreError
from tests.blocks.catalog.test_catalog import rows
from tests.clouds import Cloud


def test_writers_at_once_lose_nothing_and_every_reader_reads_it(cloud: Cloud) -> None:
    def publish(writer: int) -> None:
        catalog = Catalog(uri=cloud.uri("catalog"), store=cloud.store())
        for k in range(3):
            start = 100 * writer + 2 * k
            catalog.publish(rows(range(start, start + 2)))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(publish, range(3)))
    catalog = Catalog(uri=cloud.uri("catalog"), store=cloud.store())
    found = catalog.scan("enrichments").collect()
    assert found.height == found["uri"].n_unique() == 18
    assert connect(catalog).execute("SELECT count(*) FROM catalog").fetchall() == [(18,)]
    first = catalog.scan("enrichments").filter(pl.col("uri") == found["uri"].min()).collect()
    assert catalog.prune(first.select("uri", "enrichment", "fingerprint")) == 1
    assert catalog.scan("enrichments").collect().height == 17


def test_a_catalog_that_cannot_be_read_says_where(cloud: Cloud) -> None:
    catalog = Catalog(uri=f"{cloud.scheme}://not-here-{cloud.bucket}/catalog", store=cloud.store())
    with pytest.raises(StoreError, match="not-here-"):
        catalog.check_writable()
