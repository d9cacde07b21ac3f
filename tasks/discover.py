"""discover: list what the source holds, or look up what a manifest names."""

from __future__ import annotations

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from blocks.catalog import Catalog
from blocks.manifests import Manifests
from blocks.object_store import ObjectStore, takes
from schemas.inventory import Inventory
from schemas.selection import EVERYTHING, Selection
from schemas.spec import EnrichmentSpec, StoreSettings


def open_store(settings: StoreSettings) -> ObjectStore:
    """The store that a spec names: a saved block, or one from the settings and the AWS environment."""
    if settings.block:
        return ObjectStore.load(settings.block)  # type: ignore[return-value]
    return ObjectStore(endpoint_url=settings.endpoint_url, region=settings.region, anonymous=settings.anonymous)


@task(retries=2, retry_delay_seconds=exponential_backoff(2), cache_policy=NO_CACHE, persist_result=False)
def discover(spec: EnrichmentSpec, selection: Selection = EVERYTHING) -> pl.DataFrame:
    """Return the inventory: every object that matches the source, without the catalog's own files.

    With a manifest, what is left of the objects it lists, as they are now; nothing, if it has been closed.
    Raises StoreError if a bucket, folder or manifest cannot be read.
    """
    store = open_store(spec.store)
    if selection.manifest is None:
        return Inventory.validate(store.inventory(spec.source, outside=spec.catalog))
    listed = Manifests(open_catalog(spec)).read(selection.manifest) or []
    return Inventory.validate(store.look_up(list(filter(takes(spec.source, spec.catalog), listed))))


def open_catalog(spec: EnrichmentSpec) -> Catalog:
    """The catalog that a spec names, reached as its store is."""
    return Catalog(uri=spec.catalog, store=open_store(spec.store))
