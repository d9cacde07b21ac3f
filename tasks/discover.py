"""discover: list what the source holds."""

from __future__ import annotations

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from blocks.object_store import ObjectStore
from schemas.inventory import Inventory
from schemas.spec import EnrichmentSpec, StoreSettings


def open_store(settings: StoreSettings) -> ObjectStore:
    """The store that a spec names: a saved block, or one from the settings and the AWS environment."""
    if settings.block:
        return ObjectStore.load(settings.block)  # type: ignore[return-value]
    return ObjectStore(endpoint_url=settings.endpoint_url, region=settings.region, anonymous=settings.anonymous)


@task(retries=2, retry_delay_seconds=exponential_backoff(2), cache_policy=NO_CACHE, persist_result=False)
def discover(spec: EnrichmentSpec) -> pl.DataFrame:
    """Return the inventory: every object that matches the source, without the catalog's own files.

    Raises StoreError if a bucket or folder cannot be listed.
    """
    inventory = open_store(spec.store).inventory(spec.source, outside=spec.catalog)
    return Inventory.validate(inventory)
