"""Manifests: lists of uploaded objects in the store; each waits there until a run has seen to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import uuid4

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.failure import StoreError
from sightflow.schemas.run.discovered import Skips


class Manifests:
    """The manifests of one catalog: JSON, `{"uris": [...]}`, one file a batch of uploads, named for its time."""

    def __init__(self, catalog: Catalog) -> None:
        self._store = catalog.store
        self.folder = f"{catalog.uri.rstrip('/')}/uploads/"

    def write(self, uris: Sequence[str]) -> str:
        """Write one, durably, and return its URI."""
        uri = f"{self.folder}{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:12]}.json"
        self._store.write(uri, json.dumps({"uris": list(uris)}, ensure_ascii=True).encode())
        return uri

    def waiting(self) -> list[str]:
        """Those that no run has finished yet, oldest first."""
        return sorted(uri for uri in self._store.list_prefix(self.folder) if uri.endswith(".json"))

    def read(self, uri: str, skips: Skips | None = None) -> list[str] | None:
        """The URIs of the objects that it lists, or None if it is gone, its objects having been seen to.

        What is no URI is left out, and told to `skips`. Raises StoreError if the file is no manifest.
        """
        content = self._store.read(uri)
        if content is None:
            return None
        try:
            listed = json.loads(content)["uris"]
        except (ValueError, KeyError, TypeError, RecursionError):
            listed = None
        if not isinstance(listed, list):
            raise StoreError(f'{uri} is no manifest; one is JSON: {{"uris": ["s3://bucket/key", ...]}}')
        uris: list[str] = []
        for place, entry in enumerate(listed, 1):
            try:
                uris.append(self._store.canonical_object(entry if isinstance(entry, str) else ""))
            except ValueError:
                if skips is not None:
                    skips.add(f"{uri}, entry {place:,}", "it is no URI")
        return uris

    def close(self, uri: str) -> None:
        """Take away one whose objects have been seen to."""
        self._store.remove(uri)
