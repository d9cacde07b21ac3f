"""Stores of Google and Azure on loopback, in one form: a fresh bucket or container in an emulator."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fsspec.asyn import get_loop, sync

from sightflow.blocks.store.azure.client import AzureClient
from sightflow.blocks.store.object_store import ObjectStore
from tests.loopback.stores.azurite import ACCOUNT, KEY, Azurite
from tests.loopback.stores.google_storage import GoogleStorage


@dataclass(frozen=True)
class Cloud:
    """A bucket. `settings`: of a spec's `store`; `environment`: with the keys that it needs."""

    scheme: str
    bucket: str
    endpoint: str
    environment: Mapping[str, str]
    settings: dict[str, Any] = field(default_factory=dict)

    def uri(self, key: str) -> str:
        return f"{self.scheme}://{self.bucket}/{key}"

    def store(self, endpoint: str | None = None, **settings: Any) -> ObjectStore:
        """A store that reaches the bucket, or what stands before it at another address."""
        return ObjectStore(**{**self.settings, **(self.at(endpoint) if endpoint else {}), "attempts": 2, **settings})

    def at(self, endpoint: str) -> dict[str, Any]:
        """The settings with the address of what stands before the emulator."""
        return {name: value.replace(self.endpoint, endpoint) for name, value in self.settings.items()}

    def put(self, key: str, content: bytes) -> str:
        self.store().write(self.uri(key), content)
        return self.uri(key)

    def delete(self, key: str) -> None:
        self.store().remove(self.uri(key))


def azure_cloud(azurite: Azurite) -> Cloud:
    """A fresh container."""
    name = f"c{uuid.uuid4().hex[:12]}"
    settings = {"azure_account": ACCOUNT, "azure_endpoint_url": azurite.endpoint}
    store = ObjectStore(**settings, azure_account_key=KEY)
    client = AzureClient(store)
    sync(get_loop(), client._send, "PUT", f"{client._container_url(name)}?restype=container")
    return Cloud("az", name, azurite.url, {"AZURE_STORAGE_ACCOUNT_KEY": KEY}, settings)


def google_cloud(storage: GoogleStorage) -> Cloud:
    """A fresh bucket."""
    name = f"b{uuid.uuid4().hex[:12]}"
    storage.buckets[name] = {}
    return Cloud("gs", name, storage.url, {"STORAGE_EMULATOR_HOST": storage.url}, {"google_endpoint_url": storage.url})
