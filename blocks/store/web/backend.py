"""Objects of the web, named one by one, in a list or as a source."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain

import polars as pl
from fsspec.asyn import get_loop, sync

from sightflow.blocks.store.backend import UriFilter
from sightflow.blocks.store.buckets.backend import BucketBackend
from sightflow.blocks.store.buckets.client import ErrorKind
from sightflow.blocks.store.inventory import to_inventory
from sightflow.blocks.store.web.client import WebClient, only_read
from sightflow.blocks.store.web.session import WebSettings
from sightflow.schemas.failure import Failure, StoreRefusal
from sightflow.schemas.object_uri import ObjectUri
from sightflow.schemas.run.discovered import Skips
from sightflow.schemas.source_pattern import alternatives, is_literal, literal_prefix

_MOST_LIST_BYTES = 256 * 2**20
_MOST_LIST_SECONDS = 900.0


class ReadOnlyBackend(BucketBackend):
    """`StorageBackend` for what is read over HTTP and never written."""

    def __init__(self, client: WebClient, settings: WebSettings) -> None:
        self._web_client = client
        super().__init__(client, settings)

    def list_prefix(self, prefix: ObjectUri) -> list[str]:
        raise only_read(self._web_client.scheme)

    def read(self, uri: ObjectUri) -> bytes | None:
        """The bytes of a list, at most 256 MiB of them, within a quarter of an hour."""

        async def attempt() -> bytes:
            return await self._web_client.read_whole(uri, _MOST_LIST_BYTES)

        async def get() -> bytes | None:
            try:
                async with asyncio.timeout(_MOST_LIST_SECONDS):
                    return await self._web_client.retry(attempt)
            except Exception as error:  # the libraries have no common class of errors
                if self._web_client.kind_of(error) is ErrorKind.MISSING:
                    return None
                raise self._web_client.store_error(error, uri) from None

        return sync(get_loop(), get)  # type: ignore[no-any-return]

    def create(self, uri: ObjectUri, content: bytes) -> bool:
        raise only_read(self._web_client.scheme)

    def check_writable(self, folder: ObjectUri) -> None:
        raise only_read(self._web_client.scheme)

    def check_room(self, folder: ObjectUri, size: int) -> None:
        raise only_read(self._web_client.scheme)

    def makedirs(self, folder: ObjectUri) -> None:
        raise only_read(self._web_client.scheme)

    def delta_table_uri(self, folder: ObjectUri) -> str:
        raise only_read(self._web_client.scheme)


class WebBackend(ReadOnlyBackend):
    """`StorageBackend` for `https://`. A web server lists nothing."""

    def __init__(self, settings: WebSettings) -> None:
        super().__init__(WebClient(settings), settings)

    def check(self, pattern: str) -> None:
        _named([pattern])

    def inventory(self, patterns: Sequence[str], include: UriFilter, skips: Skips) -> pl.DataFrame:
        """The objects that the patterns name; there is no telling what else a pattern matches."""
        uris = list(filter(include, _named(patterns)))
        found = []
        for uri, told in zip(uris, self.head_many(uris), strict=True):
            if isinstance(told, Failure):
                skips.add(uri, told.message)
            elif told is not None:
                found.append(told)
        return to_inventory(found)


def _named(patterns: Sequence[str]) -> list[str]:
    """The objects that patterns name. Raises StoreRefusal for one that would have to be listed."""
    each = list(chain.from_iterable(map(alternatives, patterns)))
    for pattern in each:
        if not is_literal(pattern):
            raise StoreRefusal(
                f"{pattern} cannot be listed: no web server tells what it has; name its objects in a file, and give "
                "that as `listing`"
            )
    return list(dict.fromkeys(map(literal_prefix, each)))
