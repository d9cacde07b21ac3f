"""Where media come from: S3 and compatible stores through s3fs, and local folders, as one block.

URIs are `s3://bucket/key` with the key as it is, not percent-encoded, and `file:///absolute/path`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import polars as pl
from fsspec.asyn import get_loop, sync
from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from sightflow.blocks.block_links import LOGO, documentation
from sightflow.blocks.store.inventory import concat, inventory_of, to_inventory, version_of
from sightflow.blocks.store.local_files import Listed, hash_file, read_file, stat_file, too_large, walk, write_file
from sightflow.blocks.store.patterns import literal_of, roots_of, source_filter
from sightflow.blocks.store.s3_errors import BAD_KEY_CODES, DENIED_CODES, code_of, is_transient, message_of
from sightflow.blocks.store.s3_listing import Listing, Root
from sightflow.schemas.failure import Cause, Failure, Stage, StoreError
from sightflow.schemas.media import MediaFile

Found = TypeVar("Found")

_LOOKED_UP_AT_ONCE = 10_000  # objects, each a waiting request
_SHORTEST_KEY = 8  # what is shorter ("demo", "minio") protects nothing, and is part of ordinary words


class ObjectStore(Block):
    """An S3 or S3-compatible store, or the local file system.

    Without keys of its own the block uses what the AWS command line would: environment, profile, role.
    """

    _block_type_name = "Sightflow object store"
    _block_type_slug = "sightflow-object-store"
    _block_schema_capabilities: ClassVar[list[str]] = ["object-store"]
    _logo_url = LOGO
    _documentation_url = documentation("spec.md")
    _code_example = """
        ```python
        from sightflow.blocks import ObjectStore

        store = ObjectStore.load("NAME")
        print(store.inventory(["s3://bucket/**/*.jpg"]))
        ```
    """
    model_config = ConfigDict(extra="forbid")

    endpoint_url: str | None = Field(default=None, description="Of an S3-compatible store; empty: AWS.")
    region: str | None = Field(default=None, description="AWS region; empty: what the environment says.")
    access_key_id: SecretStr | None = Field(default=None, description="Empty: environment, profile or role.")
    secret_access_key: SecretStr | None = Field(default=None, description="Belongs to the access key id.")
    session_token: SecretStr | None = Field(default=None, description="Of temporary keys.")
    anonymous: bool = Field(default=False, description="Send unsigned requests, for public buckets.")
    concurrency: int = Field(default=32, ge=1, le=512, description="Most requests in flight.")
    attempts: int = Field(default=5, ge=1, le=20, description="Tries of one request before it counts as failed.")
    timeout: float = Field(default=60.0, gt=0, description="Seconds without a byte until a try is given up.")

    _filesystem: Any = PrivateAttr(default=None)
    _slots: Any = PrivateAttr(default=None)
    _keys: set[str] = PrivateAttr(default_factory=set)

    # --- listing --------------------------------------------------------------------------------

    def inventory(self, patterns: Sequence[str], outside: str | None = None) -> pl.DataFrame:
        """List the objects that match any of the patterns, one row each, in the form of `Inventory`.

        A pattern is a URI with `*`, `?`, `[...]` within a path segment and `**` across them; one that ends
        in `/` means all below it. `outside`: a URI below which nothing is taken (the catalog's own files).
        Raises StoreError if a bucket or folder cannot be listed.
        """
        taken = source_filter(patterns, outside)
        local = [pattern for pattern in patterns if pattern.startswith("file://")]
        files = (listed for pattern in local for listed in _walked(pattern) if taken(listed[0]))
        buckets = self._all_pages(roots_of(patterns), lambda bucket, objects: _page_of(bucket, objects, taken))
        return concat([to_inventory(files), *buckets])

    def _all_pages(self, roots: Sequence[Root], make: Callable[[str, list[dict[str, Any]]], Found]) -> list[Found]:
        """What `make` makes of every page of objects; `concurrency` pages are asked for at once."""

        async def all_pages() -> list[Found]:
            return await Listing(self._page, self.concurrency, make).chunks(roots)

        return sync(get_loop(), all_pages) if roots else []

    async def _page(self, **arguments: Any) -> dict[str, Any]:
        async def once() -> dict[str, Any]:
            client = await self._client()
            async with self._requests():
                return await client.list_objects_v2(**arguments)  # type: ignore[no-any-return]

        try:
            return await self._retried(once)
        except Exception as error:
            raise self._store_error(error, f"s3://{arguments['Bucket']}/{arguments['Prefix']}") from None

    def head_many(self, uris: Sequence[str]) -> pl.DataFrame:
        """The inventory of just these objects as they are now; one that is not there, or no longer, has no row.

        Raises StoreError if the store refuses to tell.
        """

        async def facts(uri: str) -> Listed | None:
            if uri.startswith("file://"):
                return await asyncio.to_thread(stat_file, uri)
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            head = await self._called(uri, "head_object", Bucket=bucket, Key=key)
            if head is None:
                return None
            return uri, version_of(head["ETag"], head["ContentLength"]), head["ContentLength"], head["LastModified"]

        async def one(uri: str, _: str) -> Listed | None:
            return await facts(uri)

        once_each = iter(dict.fromkeys(uris))
        batches = iter(lambda: list(islice(once_each, _LOOKED_UP_AT_ONCE)), [])
        found = (self._all(one, [(uri, "") for uri in batch]) for batch in batches)
        return to_inventory(each for batch in found for each in batch if each)

    # --- small files of our own -----------------------------------------------------------------

    def write(self, uri: str, content: bytes) -> None:
        """Write a small file whole: a reader sees all of it or nothing. Raises StoreError."""
        if uri.startswith("file://"):
            write_file(uri, content)
            return
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        sync(get_loop(), self._called, uri, "put_object", Bucket=bucket, Key=key, Body=content)

    def read(self, uri: str) -> bytes | None:
        """The bytes of a small file, or None if it is not there. Raises StoreError."""
        if uri.startswith("file://"):
            path = Path(uri.removeprefix("file://"))
            return path.read_bytes() if path.is_file() else None
        bucket, _, key = uri.removeprefix("s3://").partition("/")

        async def whole() -> bytes | None:
            answer = await self._called(uri, "get_object", Bucket=bucket, Key=key)
            if answer is None:
                return None
            async with answer["Body"] as body:
                return bytes(await body.read())

        return sync(get_loop(), whole)  # type: ignore[no-any-return]

    def remove(self, uri: str) -> None:
        """Remove a file, if it is there. Raises StoreError."""
        if uri.startswith("file://"):
            Path(uri.removeprefix("file://")).unlink(missing_ok=True)
            return
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        sync(get_loop(), self._called, uri, "delete_object", Bucket=bucket, Key=key)

    def list_prefix(self, folder: str) -> list[str]:
        """The URIs of all files in a folder, none if there is no such folder. `folder` ends in a slash."""
        if folder.startswith("file://"):
            path = Path(folder.removeprefix("file://"))
            return [uri for uri, *_ in _walked(folder)] if path.is_dir() else []
        pages = self._all_pages(roots_of([folder]), _files_of)
        return [uri for page in pages for uri, _ in page]

    async def _called(self, uri: str, name: str, **arguments: Any) -> Any:
        """The answer to one request about an object, tried again while that may help; None if it is not there."""

        async def once() -> Any:
            return await getattr(await self._client(), name)(**arguments)

        try:
            return await self._retried(once)
        except Exception as error:
            if code_of(error) in ("NoSuchKey", "404"):
                return None
            raise self._store_error(error, uri) from None

    # --- reading --------------------------------------------------------------------------------

    def read_many(self, wanted: Sequence[tuple[str, str]], max_bytes: int) -> list[bytes | Failure]:
        """Read objects `(uri, object_version)` at once, in order: the bytes, or why they could not be had.

        An object that is gone or is no longer the planned version fails with cause `changed`; one past
        `max_bytes` with `too_large`, before its body is read; what still fails after retries with `fetch`.
        Raises StoreError when the store refuses the credentials.
        """

        async def read(uri: str, version: str) -> bytes | Failure:
            if uri.startswith("file://"):
                return await asyncio.to_thread(read_file, uri, version, max_bytes)
            parts: list[bytes] = []
            failure = await self._read(uri, version, max_bytes, parts.clear, parts.append)
            return failure or b"".join(parts)

        return self._all(read, wanted)

    def download_many(
        self, wanted: Sequence[tuple[str, str]], folder: Path, max_bytes: int
    ) -> list[MediaFile | Failure]:
        """As `read_many`, for objects that are too large to be held in memory: as files.

        An empty version means what is there now, of a bucket.
        An object of a bucket is written to a new file in `folder`; one that is a file already stays where it is.
        """

        async def download(uri: str, version: str) -> MediaFile | Failure:
            if uri.startswith("file://"):
                return await asyncio.to_thread(hash_file, uri, version, max_bytes)
            path = folder / hashlib.sha256(uri.encode()).hexdigest()[:32]
            digest = hashlib.sha256()
            with path.open("wb") as file:

                def begin() -> None:
                    nonlocal digest
                    digest = hashlib.sha256()
                    file.seek(0)
                    file.truncate()

                def take(part: bytes) -> None:
                    digest.update(part)
                    file.write(part)

                failure = await self._read(uri, version, max_bytes, begin, take)
            if failure:
                path.unlink()
                return failure
            return MediaFile(path, digest.hexdigest())

        return self._all(download, wanted)

    def _all(self, read: Callable[[str, str], Awaitable[Found]], wanted: Sequence[tuple[str, str]]) -> list[Found]:
        """Read many objects, `concurrency` at once over all the calls of this store."""

        async def one(uri: str, version: str) -> Found:
            async with self._requests():
                return await read(uri, version)

        async def gather() -> list[Found]:
            return await asyncio.gather(*(one(uri, version) for uri, version in wanted))

        return sync(get_loop(), gather)  # type: ignore[no-any-return]

    async def _read(
        self, uri: str, version: str, max_bytes: int, begin: Callable[[], None], take: Callable[[bytes], None]
    ) -> Failure | None:
        """Give the body's parts to `take`, after `begin` at every try; return why it could not be had, or None."""
        tries = 0

        async def once() -> Failure | None:
            nonlocal tries
            tries += 1
            begin()
            return await self._get(uri, version, max_bytes, take)

        try:
            return await self._retried(once)
        except Exception as error:
            code = code_of(error)
            if code in ("PreconditionFailed", "412"):
                return Failure(Cause.CHANGED, "replaced since it was listed", Stage.FETCH, tries)
            if code in ("NoSuchKey", "404"):
                return Failure(Cause.CHANGED, "deleted since it was listed", Stage.FETCH, tries)
            if code in BAD_KEY_CODES:
                raise self._store_error(error, uri) from None
            # A single object may be denied by its own policy: that is its failure, not the run's.
            return Failure(Cause.FETCH, f"{code or type(error).__name__}: {self._redacted(error)}", Stage.FETCH, tries)

    async def _get(self, uri: str, version: str, max_bytes: int, take: Callable[[bytes], None]) -> Failure | None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        client = await self._client()
        etag = version.rpartition("-")[0]
        async with asyncio.timeout(None) as deadline:
            # The clock is set anew for each part, so a slow body is taken and a stalled one is not.
            deadline.reschedule(_from_now(self.timeout))
            only = {"IfMatch": f'"{etag}"'} if etag else {}
            answer = await client.get_object(Bucket=bucket, Key=key, **only)
            async with answer["Body"] as body:
                length = int(answer["ContentLength"])
                if length > max_bytes:
                    return too_large(length, max_bytes)
                received = 0
                while part := await body.read(1 << 20):
                    take(part)
                    received += len(part)
                    deadline.reschedule(_from_now(self.timeout))
        if received != length:
            raise ConnectionError(f"the body ended after {received:,} of {length:,} bytes")
        return None

    def _requests(self) -> asyncio.Semaphore:
        """Held while a request is in flight."""
        if self._slots is None:
            self._slots = asyncio.Semaphore(self.concurrency)
        return self._slots  # type: ignore[no-any-return]

    # --- connection -----------------------------------------------------------------------------

    def connect(self) -> None:
        """Open the client of S3 now, which takes some tenths of a second and may look up a role's keys; the store
        itself is asked nothing.
        """
        sync(get_loop(), self._client)

    async def _client(self) -> Any:
        if self._filesystem is None:
            import s3fs
            from aiobotocore.session import AioSession

            session = AioSession()
            # The SDK's own reader of times takes two thirds of the time that reading a page of a listing takes.
            session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time)
            secret = {
                "key": self.access_key_id and self.access_key_id.get_secret_value(),
                "secret": self.secret_access_key and self.secret_access_key.get_secret_value(),
                "token": self.session_token and self.session_token.get_secret_value(),
            }
            self._filesystem = s3fs.S3FileSystem(
                session=session,
                anon=self.anonymous,
                endpoint_url=self.endpoint_url,
                client_kwargs={"region_name": self.region} if self.region else {},
                # One retry layer, here: the SDK's own cannot retry a body that was cut short.
                config_kwargs={
                    "retries": {"total_max_attempts": 1},
                    "max_pool_connections": self.concurrency,
                    "connect_timeout": self.timeout,
                    "read_timeout": self.timeout,
                    # The SDK would put its own name together anew for every request.
                    "user_agent": "sightflow",
                },
                skip_instance_cache=True,
                use_listings_cache=False,
                **{name: value for name, value in secret.items() if value},
            )
        return await self._filesystem.set_session()

    async def _retried(self, call: Callable[[], Awaitable[Found]]) -> Found:
        """Call until it succeeds, with full jitter (0 to 0.2, 0.4, ... 20 s) between tries of transient errors."""
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.attempts),
            wait=wait_random_exponential(multiplier=0.2, max=20),
            retry=retry_if_exception(is_transient),
            reraise=True,
        )
        return await retrying(call)

    def _store_error(self, error: Exception, uri: str) -> StoreError:
        code, where = code_of(error), self.endpoint_url or "AWS S3"
        bucket = uri.removeprefix("s3://").partition("/")[0]
        if code == "NoSuchBucket":
            return StoreError(f"there is no bucket {bucket!r} at {where}; check the name in `source`")
        if code in DENIED_CODES | BAD_KEY_CODES:
            return StoreError(f"{where} refuses to let us read {uri} ({code}); check the keys and the bucket's policy")
        if type(error).__name__ == "NoCredentialsError":
            return StoreError(
                f"no keys for {where}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role, "
                "or `store: {anonymous: true}` for a public bucket"
            )
        return StoreError(f"{where} does not answer for {uri} after {self.attempts} tries: {self._redacted(error)}")

    def _redacted(self, error: BaseException) -> str:
        return self.redact(message_of(error))[:300]

    def redact(self, text: str) -> str:
        """What a store said, without the keys it was sent: some repeat them when they refuse."""
        from botocore.exceptions import BotoCoreError

        if not self._keys:
            with suppress(BotoCoreError):
                self.delta_options()
        for key in self._keys:
            text = text.replace(key, "***")
        return text

    def check(self, pattern: str) -> None:
        """Begin to list a source. Raises StoreError that says what is wrong."""
        if pattern.startswith("file://"):
            next(_walked(pattern), None)
        for root in roots_of([pattern]):
            sync(get_loop(), self._page, Bucket=root.bucket, Prefix=root.prefix, MaxKeys=1)

    def delta_options(self) -> dict[str, str]:
        """The connection in the words of delta-rs (object_store crate); holds secrets, never to be shown."""
        options = {"aws_conditional_put": "etag"}  # two writers of one commit: the second is told
        endpoint = self.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            options["aws_endpoint_url"] = endpoint
            if endpoint.startswith("http://"):
                options["aws_allow_http"] = "true"
        if self.anonymous:
            options["aws_skip_signature"] = "true"
        from botocore.session import get_session

        session = get_session()
        region = self.region or session.get_config_variable("region")
        options["aws_region"] = region or "us-east-1"
        if self.access_key_id and self.secret_access_key:
            options["aws_access_key_id"] = self.access_key_id.get_secret_value()
            options["aws_secret_access_key"] = self.secret_access_key.get_secret_value()
            if self.session_token:
                options["aws_session_token"] = self.session_token.get_secret_value()
        elif not self.anonymous and (credentials := session.get_credentials()):
            # delta-rs reads the environment but no profiles: ask botocore, which reads both.
            frozen = credentials.get_frozen_credentials()
            options["aws_access_key_id"] = frozen.access_key
            options["aws_secret_access_key"] = frozen.secret_key
            if frozen.token:
                options["aws_session_token"] = frozen.token
        given = [options.get(f"aws_{name}", "") for name in ("access_key_id", "secret_access_key", "session_token")]
        self._keys.update(key for key in given if len(key) >= _SHORTEST_KEY)
        return options


def _walked(pattern: str) -> Iterator[Listed]:
    literal = literal_of(pattern)
    return walk(literal.removeprefix("file://"), exact=literal == pattern)


def _files_of(bucket: str, objects: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The URI and the entry of each object of a page."""
    # A key that ends in a slash and holds nothing marks an empty "folder", made by consoles.
    files = (each for each in objects if each["Size"] or not each["Key"].endswith("/"))
    return [(f"s3://{bucket}/{each['Key']}", each) for each in files]


def _page_of(bucket: str, objects: list[dict[str, Any]], taken: Callable[[str], bool]) -> pl.DataFrame:
    """A page of a listing in the form of `Inventory`."""
    kept = [(uri, each) for uri, each in _files_of(bucket, objects) if taken(uri)]
    return inventory_of(
        [uri for uri, _ in kept],
        [version_of(each["ETag"], each["Size"]) for _, each in kept],
        [each["Size"] for _, each in kept],
        [each["LastModified"] for _, each in kept],
    )


def _time(told: Any) -> datetime:
    """A time as S3 tells it: ISO 8601 in listings, RFC 1123 in headers."""
    for reads in (datetime.fromisoformat, parsedate_to_datetime):
        with suppress(TypeError, ValueError):
            return reads(told)
    from botocore.utils import parse_timestamp

    return parse_timestamp(told)  # type: ignore[no-any-return]


def _from_now(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds
