"""open: the store and the catalog that a spec names."""

from __future__ import annotations

import os

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.blocks.store.saved_credentials import saved_credentials
from sightflow.schemas.failure import SpecError
from sightflow.schemas.spec import EnrichmentSpec, StoreSettings

_OF_CLOUDS = ("AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_", "STORAGE_EMULATOR_HOST", "SSL_CERT_")
_OPENED: dict[tuple[object, ...], ObjectStore] = {}


def open_store(settings: StoreSettings) -> ObjectStore:
    """The store that a spec names: a saved block, or one from the settings and the environment.

    The same one each time in a process, with one pool of connections, as long as neither says anything else.
    """
    if settings.block:
        store = ObjectStore.load(settings.block)
        if settings.azure_account not in (None, store.azure_account):
            raise SpecError(
                f"the addresses are of the Azure account {settings.azure_account!r}, and the saved store "
                f"{settings.block!r} is of {store.azure_account or 'that of the environment'}; give the block its name"
            )
    else:
        given = settings.model_dump(exclude={"block", "credentials"}, exclude_unset=True)
        store = ObjectStore(**{**saved_credentials(settings.credentials), **given})
    environment = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(_OF_CLOUDS)))
    key = (environment, *(getattr(store, name) for name in ObjectStore.model_fields))
    return _OPENED.setdefault(key, store)


def open_catalog(spec: EnrichmentSpec) -> Catalog:
    """The catalog that a spec names, reached as its store is."""
    return Catalog(uri=spec.catalog, store=open_store(spec.store))
