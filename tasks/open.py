"""open: the store and the catalog that a spec names."""

from __future__ import annotations

import os

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.spec import EnrichmentSpec, StoreSettings

_OPENED: dict[tuple[object, ...], ObjectStore] = {}


def open_store(settings: StoreSettings) -> ObjectStore:
    """The store that a spec names: a saved block, or one from the settings and the AWS environment.

    The same one each time in a process, with one pool of connections, as long as neither says anything else.
    """
    if settings.block:
        store: ObjectStore = ObjectStore.load(settings.block)  # type: ignore[assignment]
    else:
        store = ObjectStore(**settings.model_dump(exclude={"block"}))
    environment = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    key = (environment, *(getattr(store, name) for name in ObjectStore.model_fields))
    return _OPENED.setdefault(key, store)


def open_catalog(spec: EnrichmentSpec) -> Catalog:
    """The catalog that a spec names, reached as its store is."""
    return Catalog(uri=spec.catalog, store=open_store(spec.store))
