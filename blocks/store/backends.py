"""What reaches each kind of storage: the one table that names them all."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from sightflow.blocks.store.backend import StorageBackend
from sightflow.schemas.object_uri import Scheme

_CLIENTS: Mapping[Scheme, tuple[str, str]] = {
    Scheme.S3: ("s3.client", "S3Client"),
    Scheme.GOOGLE: ("google.client", "GoogleClient"),
    Scheme.AZURE: ("azure.client", "AzureClient"),
}
_BACKENDS: Mapping[Scheme, tuple[str, str]] = {
    Scheme.HTTPS: ("web.backend", "WebBackend"),
    Scheme.HUB: ("web.hub", "HubBackend"),
    Scheme.FILE: ("local", "LocalBackend"),
}


def connected(scheme: Scheme, store: Any) -> StorageBackend:
    """What reaches the storage of a scheme, by the settings of an `ObjectStore`; other libraries are not loaded."""
    if scheme in _CLIENTS:
        from sightflow.blocks.store.buckets.backend import BucketBackend

        return BucketBackend(_class_of(*_CLIENTS[scheme])(store), store)
    backend: StorageBackend = _class_of(*_BACKENDS[scheme])(store)
    return backend


def _class_of(module: str, name: str) -> Any:
    return getattr(import_module(f"sightflow.blocks.store.{module}"), name)
