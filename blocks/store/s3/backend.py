"""S3 and compatible stores: objects listed, looked up and read at the version that was planned."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import secrets
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from fsspec.asyn import get_loop, sync

from sightflow.blocks.store.backend import ConcurrencyLimit, ObjectVersion, Refused, UriFilter, too_large
from sightflow.blocks.store.buckets.listing import Listing, NotAListing, Page, Root, listing_roots
from sightflow.blocks.store.inventory import ListedObject, concat, version_of
from sightflow.blocks.store.s3.answers import check_page, inventory_of, objects_of
from sightflow.blocks.store.s3.client import S3Client, S3Settings
from sightflow.blocks.store.s3.errors import DENIED_CODES, MISSING_CODES, REPLACED_CODES, code_of, is_about_the_caller
from sightflow.schemas.failure import Cause, Failure, Stage, StoreError, StoreRefusal, is_about_this_machine
from sightflow.schemas.media import MediaFile
from sightflow.schemas.object_uri import ObjectUri, Scheme
from sightflow.schemas.run.discovered import Skips

Chunk = TypeVar("Chunk")

logger = logging.getLogger(__name__)

_PART_BYTES = 1 << 20
_LEAST_BYTES_A_SECOND = 1 << 15  # of one of many at once; slower than that a body would hold its place for hours


class S3Backend:
    """`StorageBackend` for `s3://`: one connection pool, `concurrency` requests at once over all calls."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._client = S3Client(settings)
        self._limit = ConcurrencyLimit(settings.concurrency)

    def connect(self) -> None:
        """Open the client, which may look up the keys of a role."""
        try:
            sync(get_loop(), self._client.open)
        except Exception as error:  # the SDK has no common class of errors, and some hold keys
            raise StoreError(f"the client of S3 cannot be opened: {self._client.redacted(error)}") from None

    # --- listing --------------------------------------------------------------------------------

    def check(self, pattern: str) -> None:
        for root in listing_roots([pattern]):
            sync(get_loop(), self._list_page, Bucket=root.bucket, Prefix=root.prefix, MaxKeys=1)

    def inventory(self, patterns: Sequence[str], include: UriFilter, skips: Skips) -> pl.DataFrame:
        def chunk(bucket: str, objects: list[dict[str, Any]]) -> pl.DataFrame:
            return inventory_of(bucket, objects, include, skips)

        return concat(self._list_pages(listing_roots(patterns), chunk))

    def list_prefix(self, prefix: ObjectUri) -> list[str]:
        def chunk(bucket: str, objects: list[dict[str, Any]]) -> list[str]:
            return [uri for uri, _ in objects_of(bucket, objects)]

        return [uri for page in self._list_pages([Root(prefix.bucket, prefix.key)], chunk) for uri in page]

    def _list_pages(self, roots: Sequence[Root], convert: Callable[[str, list[dict[str, Any]]], Chunk]) -> list[Chunk]:
        """What `convert` makes of every page of objects; `concurrency` pages are asked for at once."""

        async def list_pages() -> list[Chunk]:
            try:
                return await Listing(self._list_page, self._settings.concurrency, convert).chunks(roots)
            except NotAListing as error:
                where = ObjectUri(Scheme.S3, roots[0].bucket, roots[0].prefix)
                raise self._client.store_error(error, where) from None

        return sync(get_loop(), list_pages)  # type: ignore[no-any-return]

    async def _list_page(self, **arguments: Any) -> Page:
        async def attempt() -> Page:
            client = await self._client.open()
            async with self._limit.semaphore, asyncio.timeout(2 * self._settings.timeout):
                page: Page = await client.list_objects_v2(**arguments)
            check_page(page, arguments["Bucket"], arguments["Prefix"])
            return page

        where = ObjectUri(Scheme.S3, arguments["Bucket"], arguments["Prefix"])
        try:
            return await self._client.retry(attempt)
        except Exception as error:  # the SDK has no common class of errors, and some hold keys
            raise self._client.store_error(error, where) from None

    # --- looking up -----------------------------------------------------------------------------

    def head_many(self, uris: Sequence[str]) -> list[ListedObject | Failure | None]:
        return self._limit.map(self._head, uris)

    async def _head(self, uri: str) -> ListedObject | Failure | None:
        try:
            head = await self._ask("head_object", uri)
        except Exception as error:  # one object of many: whatever is wrong with it costs its neighbours nothing
            return await self._lookup_failure(uri, error)
        etag, size = head.get("ETag"), head.get("ContentLength")
        if not etag or size is None:
            return _failure("the answer about it has no ETag: it is not from an S3 store")
        return uri, version_of(etag, size), size, head.get("LastModified")

    async def _lookup_failure(self, uri: str, error: Exception) -> Failure | None:
        """Why nobody can say what an object is, or None if it is not there.

        The answer to a HEAD has no body. Only that to a GET tells a missing object from a missing bucket or a gateway,
        and a refused object from refused keys. Raises StoreError for what no other object would fare better with.
        """
        if code_of(error) in MISSING_CODES | DENIED_CODES:
            try:
                await self._first_byte(uri)
            except Exception as told:
                error = told
        if code_of(error) == "NoSuchKey":
            return None
        if is_about_the_caller(error):
            raise self._client.store_error(error, ObjectUri.parse(uri)) from None
        return _failure(
            f"it cannot be looked up: {code_of(error) or type(error).__name__}: {self._client.redacted(error)}"
        )

    async def _first_byte(self, uri: str) -> None:
        answer = await self._ask("get_object", uri, Range="bytes=0-0")
        async with answer["Body"]:
            """Closed unread: a store that knows no ranges sends all of it."""

    async def _ask(self, operation: str, uri: str, **arguments: Any) -> Any:
        located = ObjectUri.parse(uri)
        return await self._client.call(operation, Bucket=located.bucket, Key=located.key, **arguments)

    def read_starts(self, uris: Sequence[str], length: int) -> list[bytes | None]:
        async def read(text: str) -> bytes | None:
            uri = ObjectUri.parse(text)

            async def attempt() -> bytes:
                client = await self._client.open()
                wanted = {"Bucket": uri.bucket, "Key": uri.key, "Range": f"bytes=0-{length - 1}"}
                async with asyncio.timeout(self._settings.timeout):
                    answer = await client.get_object(**wanted)
                    async with answer["Body"] as body:
                        return bytes(await body.read(length))  # a store may ignore the range

            try:
                return await self._client.retry(attempt)
            except Exception as error:  # the SDK has no common class of errors, and some hold keys
                if is_about_the_caller(error):
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
            except Exception as error:  # the SDK has no common class of errors, and some hold keys
                if code_of(error) in MISSING_CODES:
                    return None
                raise self._client.store_error(error, uri) from None

        return sync(get_loop(), get)  # type: ignore[no-any-return]

    def write(self, uri: ObjectUri, content: bytes) -> None:
        sync(get_loop(), self._request, "put_object", uri, "write", Body=content)

    def remove(self, uri: ObjectUri) -> None:
        sync(get_loop(), self._request, "delete_object", uri, "remove")

    def check_writable(self, folder: ObjectUri) -> None:
        key = f"{folder.key.strip('/')}/.sightflow-probe-{secrets.token_hex(8)}".lstrip("/")
        sync(get_loop(), self._write_twice, ObjectUri(Scheme.S3, folder.bucket, key))

    async def _write_twice(self, probe: ObjectUri) -> None:
        """Write an object that must not be there, twice: a store that takes the second would let two runs overwrite
        each other's commits. It is then removed, in a bucket that keeps versions for good.
        """
        put = partial(self._client.call, "put_object", Bucket=probe.bucket, Key=probe.key, Body=b"", IfNoneMatch="*")
        version: dict[str, str] = {}
        second_was_taken = False
        try:
            for second_was_taken in (False, True):
                try:
                    version = {"VersionId": v} if (v := (await put()).get("VersionId")) else {}
                except Exception as error:  # the SDK has no common class of errors, and some hold keys
                    second_was_taken = False
                    # Also at the first: it was taken, and sent again because the answer was lost.
                    if code_of(error) not in REPLACED_CODES:
                        raise self._writing_error(error, probe) from None
        finally:
            try:
                await self._client.call("delete_object", Bucket=probe.bucket, Key=probe.key, **version)
            except Exception as error:  # nobody reads it, and a store that lets nobody delete may be meant so
                logger.warning("%s was not removed: %s", probe, self._client.redacted(error))
        if second_was_taken:
            raise StoreRefusal(
                f"the store of {probe} ignores If-None-Match, so that two runs could overwrite each other's commits; "
                "use a store with conditional writes (AWS S3, MinIO, Cloudflare R2, Ceph since 19, ...)"
            )

    def _writing_error(self, error: Exception, probe: ObjectUri) -> StoreError:
        if code_of(error) in ("NotImplemented", "501"):
            return StoreRefusal(f"the store of {probe} has no conditional writes (If-None-Match), which commits need")
        return self._client.store_error(error, probe, "write")

    def check_room(self, folder: ObjectUri, size: int) -> None:
        """A bucket does not tell what room there is."""

    def makedirs(self, folder: ObjectUri) -> None:
        """A bucket has no folders: nothing is to be made."""

    async def _request(self, operation: str, uri: ObjectUri, attempted: str = "read", **arguments: Any) -> Any:
        """The answer to one request about an object, or None if it is not there. Raises StoreError."""
        try:
            return await self._client.call(operation, Bucket=uri.bucket, Key=uri.key, **arguments)
        except Exception as error:  # the SDK has no common class of errors, and some hold keys
            if code_of(error) in MISSING_CODES:
                return None
            raise self._client.store_error(error, uri, attempted) from None

    # --- reading --------------------------------------------------------------------------------

    def read_many(self, wanted: Sequence[ObjectVersion], max_bytes: int) -> list[bytes | Failure]:
        async def read(one: ObjectVersion) -> bytes | Failure:
            parts: list[bytes] = []
            failure = await self._get_version(one, max_bytes, parts.clear, parts.append)
            return failure or b"".join(parts)

        return self._limit.map(read, wanted)

    def download_many(self, wanted: Sequence[ObjectVersion], folder: Path, max_bytes: int) -> list[MediaFile | Failure]:
        async def download(one: ObjectVersion) -> MediaFile | Failure:
            path = folder / hashlib.sha256(one[0].encode()).hexdigest()[:32]
            digest = hashlib.sha256()
            with path.open("wb") as file:

                def restart() -> None:
                    nonlocal digest
                    digest = hashlib.sha256()
                    file.seek(0)
                    file.truncate()

                def append(part: bytes) -> None:
                    digest.update(part)
                    file.write(part)

                failure = await self._get_version(one, max_bytes, restart, append)
            if failure:
                path.unlink()
                return failure
            return MediaFile(path, digest.hexdigest())

        return self._limit.map(download, wanted)

    async def _get_version(
        self, one: ObjectVersion, max_bytes: int, restart: Callable[[], None], append: Callable[[bytes], None]
    ) -> Failure | None:
        """Give a body's parts to `append`, after `restart` at every try; return why it could not be had, or None.

        Raises StoreError if the store refuses the credentials.
        """
        uri, etag = ObjectUri.parse(one[0]), one[1].rpartition("-")[0]
        tries = 0

        async def attempt() -> Failure | None:
            nonlocal tries
            tries += 1
            restart()
            return await self._get(uri, etag, max_bytes, append)

        try:
            return await self._client.retry(attempt)
        except Exception as error:  # one object of many: whatever is wrong with it costs its neighbours nothing
            code = code_of(error)
            if code in REPLACED_CODES:
                return Failure(Cause.CHANGED, "replaced since it was listed", Stage.FETCH, tries)
            if code in MISSING_CODES:
                return Failure(Cause.CHANGED, "deleted since it was listed", Stage.FETCH, tries)
            if is_about_the_caller(error):
                raise self._client.store_error(error, uri) from None
            if is_about_this_machine(error):
                raise
            # A single object may be denied by its own policy: that is its failure, not the run's.
            message = f"{code or type(error).__name__}: {self._client.redacted(error)}"
            logger.debug("%s cannot be read after %d tries: %s", uri, tries, message)
            return (Refused if code in DENIED_CODES else Failure)(Cause.FETCH, message, Stage.FETCH, tries)

    async def _get(self, uri: ObjectUri, etag: str, max_bytes: int, append: Callable[[bytes], None]) -> Failure | None:
        client = await self._client.open()
        async with asyncio.timeout(None) as deadline:
            # The clock is set anew for each part, so a slow body is taken and a stalled one is not; as a whole it has
            # the seconds that it takes at the least rate.
            began = asyncio.get_running_loop().time()
            self._postpone(deadline, math.inf)
            condition = {"IfMatch": f'"{etag}"'} if etag else {}
            answer = await client.get_object(Bucket=uri.bucket, Key=uri.key, **condition)
            async with answer["Body"] as body:
                length = int(answer["ContentLength"])
                if length > max_bytes:
                    return too_large(length, max_bytes)
                end = began + self._settings.timeout + length / _LEAST_BYTES_A_SECOND
                received = 0
                while part := await body.read(_PART_BYTES):
                    append(part)
                    received += len(part)
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
        return self._client.redact(text)


def _failure(message: str) -> Failure:
    return Failure(Cause.FETCH, message, Stage.FETCH)
