"""discover: list what the source holds, or look up what a manifest names."""

from __future__ import annotations

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from sightflow.blocks.catalog.upload_manifests import Manifests
from sightflow.blocks.store.inventory import concat
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.blocks.store.patterns import source_filter
from sightflow.blocks.store.s3_inventory import S3Inventory, newest_inventory, read_inventory
from sightflow.blocks.store.uri_lists import read_uri_list
from sightflow.schemas.failure import SpecError
from sightflow.schemas.object_uri import ObjectUri
from sightflow.schemas.run.selection import EVERYTHING, Selection
from sightflow.schemas.spec import EnrichmentSpec, is_uri_list
from sightflow.tasks.identify import identified
from sightflow.tasks.open import open_catalog, open_store
from sightflow.tasks.retries import may_pass


@task(
    retries=2,
    retry_delay_seconds=exponential_backoff(2),
    retry_condition_fn=may_pass,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def discover(spec: EnrichmentSpec, selection: Selection = EVERYTHING) -> pl.DataFrame:
    """Return the inventory: every object that matches the source, without the catalog's own files, each with its kind.

    With a `listing` in the spec, what that says.
    With a manifest, what is left of the objects it lists, as they are now; nothing, if it has been closed.
    Raises StoreError if a bucket, folder or manifest cannot be read.
    """
    store = open_store(spec.store)
    in_source = source_filter(spec.source, spec.catalog)
    if selection.manifest is not None:
        uploads = Manifests(open_catalog(spec)).read(selection.manifest) or []
        return identified(store.head_many(list(filter(in_source, uploads))), spec, selection)
    if not spec.listing:
        return identified(store.inventory(spec.source, outside=spec.catalog), spec, selection)
    named = [uri for address in spec.listing if is_uri_list(address) for uri in read_uri_list(store, address)]
    parts = [read_inventory(store, report, in_source) for report in s3_inventories(spec, store)]
    found = concat([*parts, store.head_many(list(filter(in_source, named)))])
    found = found.unique("uri", keep="last", maintain_order=True)  # what was looked up is newer
    return identified(found, spec, selection)


def s3_inventories(spec: EnrichmentSpec, store: ObjectStore) -> list[S3Inventory]:
    """The S3 inventories that a spec lists.

    Raises StoreError if one is not to be had, and SpecError if they do not cover the source's buckets.
    """
    reports = [newest_inventory(store, address) for address in spec.listing if not is_uri_list(address)]
    covered = {report.bucket for report in reports}
    missing = [pattern for pattern in spec.source if ObjectUri.parse(pattern).bucket not in covered]
    if missing and not spec.partial:
        raise SpecError(
            f"`listing` holds inventories of {', '.join(sorted(covered))} and none of {', '.join(missing)}; "
            "add one, or list that source in a spec of its own"
        )
    return reports
