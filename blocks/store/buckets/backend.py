"""Stores with buckets: objects listed, looked up and read at the version that was planned."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import secrets
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from fsspec.asyn import get_loop, sync

from sightflow.blocks.store.backend import ConcurrencyLimit, ObjectVersion, Refused, UriFilter, too_large
from sightflow.blocks.store.buckets.client import BucketClient, BucketSettings, ErrorKind
from sightflow.blocks.store.buckets.conditional_writes import create, write_twice
from sightflow.blocks.store.buckets.hashed_file import HashedFile
from sightflow.blocks.store.buckets.listing import Listing, NotAListing, Page, Root, listing_roots
from sightflow.blocks.store.buckets.pages import inventory_of, objects_of
from sightflow.blocks.store.inventory import ListedObject, concat, version_of
from sightflow.schemas.failure import (
    Cause,
    Failure,
    SightflowError,
    Stage,
    StoreError,
    is_about_this_machine,
)
from sightflow.schemas.media import MediaFile
from sightflow.schemas.object_uri import ObjectUri
from sightflow.schemas.redaction import redact
from sightflow.schemas.run.discovered import Skips

Chunk = TypeVar("Chunk")

logger = logging.getLogger(__name__)

_PART_BYTES = 1 << 20
_LEAST_BYTES_A_SECOND = 1 << 15  # of one of many at once; slower than that a body would hold its place for hours


class BucketBackend:
    """`StorageBackend` over one protocol: one connection pool, `concurrency` requests at once over all calls."""

    def __init__(self, client: BucketClient, settings: BucketSettings) -> None:
        self._settings = settings
        self._client = client
        self._limit = ConcurrencyLimit(settings.concurrency)

    def connect(self) -> None:
        """Open the client, which may look up the keys of a role."""
        try:
            sync(get_loop(), self._client.open)
        except SightflowError:
            raise
        except Exception as error:  # the libraries have no common class of errors, and some hold keys
            name = self._client.scheme.upper()
            raise StoreError(f"the client of {name} cannot be opened: {self._client.redacted(error)}") from None

    # --- listing --------------------------------------------------------------------------------

    def check(self, pattern: str) -> None:
        for root in listing_roots([pattern]):
            sync(get_loop(), self._list_page, Bucket=root.bucket, Prefix=root.prefix, MaxKeys=1)

    def inventory(self, patterns: Sequence[str], include: UriFilter, skips: Skips) -> pl.DataFrame:
        def chunk(bucket: str, objects: list[dict[str, Any]]) -> pl.DataFrame:
            return inventory_of(self._bucket_uri(bucket), objects, include, skips)

        return concat(self._list_pages(listing_roots(patterns), chunk))

    def list_prefix(self, prefix: ObjectUri) -> list[str]:
        def chunk(bucket: str, objects: list[dict[str, Any]]) -> list[str]:
            return [uri for uri, _ in objects_of(self._bucket_uri(bucket), objects)]

        return [uri for page in self._list_pages([Root(prefix.bucket, prefix.key)], chunk) for uri in page]

    def _bucket_uri(self, bucket: str, prefix: str = "") -> ObjectUri:
        return ObjectUri(self._client.scheme, bucket, prefix)

    def _list_pages(self, roots: Sequence[Root], convert: Callable[[str, list[dict[str, Any]]], Chunk]) -> list[Chunk]:
        """What `convert` makes of every page of objects; `concurrency` pages are asked for at once."""

        async def list_pages() -> list[Chunk]:
            try:
                client, at_once = self._client, self._settings.concurrency
                return await Listing(self._list_page, at_once, convert, client.starts_anywhere).chunks(roots)
            except NotAListing as error:
                where = self._bucket_uri(roots[0].bucket, roots[0].prefix)
                raise self._client.store_error(error, where) from None

        return sync(get_loop(), list_pages)  # type: ignore[no-any-return]

    async def _list_page(self, **arguments: Any) -> Page:
        async def attempt() -> Page:
            await self._client.open()
            async with self._limit.semaphore:
                return await self._client.list_page(**arguments)

        try:
            return await self._client.retry(attempt)
        except Exception as error:  # the libraries have no common class of errors, and some hold keys
            where = self._bucket_uri(arguments["Bucket"], arguments["Prefix"])
            raise self._client.store_error(error, where) from None

    # --- looking up -----------------------------------------------------------------------------

    def head_many(self, uris: Sequence[str]) -> list[ListedObject | Failure | None]:
        return self._limit.map(self._head, uris)

    async def _head(self, uri: str) -> ListedObject | Failure | None:
        try:
            head = await self._client.retry(lambda: self._client.head(ObjectUri.parse(uri)))
        except Exception as error:  # one object of many: whatever is wrong with it costs its neighbours nothing
            return await self._lookup_failure(uri, error)
        if head is None:
            name = self._client.scheme.upper()
            return _failure(f"the answer about it has no version and size: it is not from an {name} store")
        version, size, modified = head
        return uri, version_of(version, size), size, modified

    async def _lookup_failure(self, uri: str, error: Exception) -> Failure | None:
        """Why nobody can say what an object is, or None if it is not there.

        The answer to a HEAD has no body. Only that to a GET tells a missing object from a missing bucket or a gateway,
        and a refused object from refused keys. Raises StoreError for what no other object would fare better with.
        """
        if self._client.kind_of(error) in (ErrorKind.MISSING, ErrorKind.DENIED):
            try:
                await self._client.retry(lambda: self._first_byte(ObjectUri.parse(uri)))
            except Exception as told:
                if self._client.proves_absence(told):
                    return None
                error = told
        if self._client.kind_of(error) is ErrorKind.CALLER:
            raise self._client.store_error(error, ObjectUri.parse(uri)) from None
        code = self._client.code_of(error) or type(error).__name__
        return _failure(f"it cannot be looked up: {code}: {self._client.redacted(error)}")

    async def _first_byte(self, uri: ObjectUri) -> None:
        async with asyncio.timeout(2 * self._settings.timeout), self._client.get(uri, length=1):
            """Closed unread: a store that knows no ranges sends all of it."""

    def read_starts(self, uris: Sequence[str], length: int) -> list[bytes | None]:
        async def read(text: str) -> bytes | None:
            uri = ObjectUri.parse(text)

            async def attempt() -> bytes:
                await self._client.open()
                async with (
                    asyncio.timeout(self._settings.timeout),
                    self._client.get(uri, length=length) as (_, read_part),
                ):
                    start = b""
                    while len(start) < length and (part := await read_part(length - len(start))):
                        start += part
                    return start  # a store may ignore the range

            try:
                return await self._client.retry(attempt)
            except Exception as error:  # the libraries have no common class of errors, and some hold keys
                if self._client.kind_of(error) is ErrorKind.CALLER:
                    raise self._client.store_error(error, uri) from None
                logger.debug("the first bytes of %s cannot be read: %s", uri, self._client.redacted(error))
                return None

        return self._limit.map(read, uris)

    # --- small files of our own -----------------------------------------------------------------

    def read(self, uri: ObjectUri) -> bytes | None:
        async def attempt() -> bytes:
            parts: list[bytes] = []
            await self._get(uri, "", sys.maxsize, parts.append)
            return b"".join(parts)

        async def get() -> bytes | None:
            try:
                return await self._client.retry(attempt)
            except Exception as error:  # the libraries have no common class of errors, and some hold keys
                if self._client.kind_of(error) is ErrorKind.MISSING:
                    return None
                raise self._client.store_error(error, uri) from None

        return sync(get_loop(), get)  # type: ignore[no-any-return]

    def write(self, uri: ObjectUri, content: bytes) -> None:
        sync(get_loop(), self._change, uri, "write", lambda: self._client.put(uri, content))

    def create(self, uri: ObjectUri, content: bytes) -> bool:
        return sync(get_loop(), create, self._client, uri, content)  # type: ignore[no-any-return]

    def remove(self, uri: ObjectUri) -> None:
        sync(get_loop(), self._change, uri, "remove", lambda: self._client.delete(uri))

    async def _change(self, uri: ObjectUri, attempted: str, request: Callable[[], Awaitable[object]]) -> None:
        try:
            await self._client.retry(request)
        except Exception as error:  # the libraries have no common class of errors, and some hold keys
            if attempted == "write" or self._client.kind_of(error) is not ErrorKind.MISSING:
                raise self._client.store_error(error, uri, attempted) from None

    def check_writable(self, folder: ObjectUri) -> None:
        key = f"{folder.key.strip('/')}/.sightflow-probe-{secrets.token_hex(8)}".lstrip("/")
        sync(get_loop(), write_twice, self._client, folder.with_key(key))

    def check_room(self, folder: ObjectUri, size: int) -> None:
        """A bucket does not tell what room there is."""

    def makedirs(self, folder: ObjectUri) -> None:
        """A bucket has no folders: nothing is to be made."""

    # --- reading --------------------------------------------------------------------------------

    def read_many(self, wanted: Sequence[ObjectVersion], max_bytes: int) -> list[bytes | Failure]:
        async def read(one: ObjectVersion) -> bytes | Failure:
            parts: list[bytes] = []
            failure = await self._get_version(one, max_bytes, parts.clear, parts.append)
            return failure or b"".join(parts)

        return self._limit.map(read, wanted)

    def read_part(self, one: ObjectVersion, start: int, length: int) -> bytes | Failure:
        async def read() -> bytes | Failure:
            parts: list[bytes] = []
            async with self._limit.semaphore:
                failure = await self._get_version(one, length, parts.clear, parts.append, start)
            return failure or b"".join(parts)

        return sync(get_loop(), read)  # type: ignore[no-any-return]

    def download_many(self, wanted: Sequence[ObjectVersion], folder: Path, max_bytes: int) -> list[MediaFile | Failure]:
        async def download(one: ObjectVersion) -> MediaFile | Failure:
            path = folder / hashlib.sha256(one[0].encode()).hexdigest()[:32]
            with path.open("wb") as stream:
                file = HashedFile(stream)
                failure = await self._get_version(one, max_bytes, file.restart, file.append)
            if failure:
                path.unlink()
                return failure
            return MediaFile(path, file.sha256())

        return self._limit.map(download, wanted)

    async def _get_version(
        self,
        one: ObjectVersion,
        max_bytes: int,
        restart: Callable[[], None],
        append: Callable[[bytes], None],
        start: int | None = None,
    ) -> Failure | None:
        """Give a body's parts to `append`, after `restart` at every try; return why it could not be had, or None.

        `start`: of the body only `max_bytes` from there on, which are there.

        Raises StoreError if the store refuses the credentials.
        """
        uri, version = ObjectUri.parse(one[0]), one[1].rpartition("-")[0]
        tries = 0

        async def attempt() -> Failure | None:
            nonlocal tries
            tries += 1
            restart()
            return await self._get(uri, version, max_bytes, append, start)

        try:
            return await self._client.retry(attempt)
        except Exception as error:  # one object of many: whatever is wrong with it costs its neighbours nothing
            kind = self._client.kind_of(error)
            if kind is ErrorKind.REPLACED:
                return Failure(Cause.CHANGED, "replaced since it was listed", Stage.FETCH, tries)
            if kind is ErrorKind.MISSING:
                return Failure(Cause.CHANGED, "deleted since it was listed", Stage.FETCH, tries)
            if kind is ErrorKind.CALLER:
                raise self._client.store_error(error, uri) from None
            if is_about_this_machine(error):
                raise
            # A single object may be denied by its own policy: that is its failure, not the run's.
            message = f"{self._client.code_of(error) or type(error).__name__}: {self._client.redacted(error)}"
            logger.debug("%s cannot be read after %d tries: %s", uri, tries, message)
            return (Refused if kind is ErrorKind.DENIED else Failure)(Cause.FETCH, message, Stage.FETCH, tries)

    async def _get(
        self,
        uri: ObjectUri,
        version: str,
        max_bytes: int,
        append: Callable[[bytes], None],
        start: int | None = None,
    ) -> Failure | None:
        await self._client.open()
        async with asyncio.timeout(None) as deadline:
            # The clock is set anew for each part, so a slow body is taken and a stalled one is not; as a whole it has
            # the seconds that it takes at the least rate.
            began = asyncio.get_running_loop().time()
            self._postpone(deadline, math.inf)
            part = (None, 0) if start is None else (max_bytes, start)
            async with self._client.get(uri, version, *part) as (length, read_part):
                if start is not None and length != max_bytes:
                    raise ConnectionError(f"{length:,} bytes came where {max_bytes:,} were asked for: no ranges here?")
                if length > max_bytes:
                    return too_large(length, max_bytes)
                end = began + self._settings.timeout + length / _LEAST_BYTES_A_SECOND
                received = 0
                while piece := await read_part(_PART_BYTES):
                    append(piece)
                    received += len(piece)
                    if received > length:
                        break
                    self._postpone(deadline, end)
        if received != length:
            raise ConnectionError(f"the body ended after {received:,} of {length:,} bytes")
        return None

    def _postpone(self, deadline: asyncio.Timeout, end: float) -> None:
        deadline.reschedule(min(end, asyncio.get_running_loop().time() + self._settings.timeout))

    # --- Delta tables ---------------------------------------------------------------------------

    def delta_table_uri(self, folder: ObjectUri) -> str:
        return str(folder)

    def delta_options(self) -> dict[str, str]:
        return self._client.delta_options()

    def scan_delta(self, folder: ObjectUri, table: Any) -> pl.LazyFrame:
        return pl.scan_delta(table)

    def redact(self, text: str) -> str:
        # Each key is remembered when it is sent, since those of a role are renewed as long as the process lives.
        return redact(text)


def _failure(message: str) -> Failure:
    return Failure(Cause.FETCH, message, Stage.FETCH)
