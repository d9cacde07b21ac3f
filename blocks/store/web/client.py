"""Single objects of the web, told apart by what HTTP says of them (RFC 9110): ETag, Last-Modified, Content-Length."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from sightflow.blocks.store.buckets.client import ErrorKind, Head, ReadPart, retried
from sightflow.blocks.store.buckets.listing import Page
from sightflow.blocks.store.web.session import Forbidden, RefusedByServer, WebSession, WebSettings
from sightflow.schemas.failure import StoreError, StoreRefusal
from sightflow.schemas.object_uri import ObjectUri, Scheme
from sightflow.schemas.redaction import redact

Result = TypeVar("Result")

_GONE = frozenset({404, 410})
_DENIED = frozenset({401, 403, 407})
_KNOWS_NO_HEAD = frozenset({405, 501})
_LONGEST_VERSION = 128  # bytes; an ETag may have more
_LONGEST_MESSAGE = 300


class Replaced(Exception):
    """What is answered is another version than the one that was asked for."""


class WebClient:
    """`BucketClient` for `https://`, whose buckets are hosts: it reads, and neither lists nor writes."""

    scheme = Scheme.HTTPS
    write_condition = ""
    starts_anywhere = False

    def __init__(self, settings: WebSettings) -> None:
        self._settings = settings
        self._web = WebSession(settings)

    async def open(self) -> None:
        """A connection is made when something is asked for."""

    async def head(self, uri: ObjectUri) -> Head | None:
        """As HEAD says, or a GET of the first byte where a server has no HEAD or tells no size by it."""
        async with asyncio.timeout(2 * self._settings.timeout):
            try:
                async with self._web.request("HEAD", str(uri)) as answer:
                    found = facts_of(answer)
            except RefusedByServer as error:
                if error.status not in _KNOWS_NO_HEAD:
                    raise
                found = None
            if found is None:
                async with self._get(uri, 1) as (answer, found):
                    pass
        return found

    @asynccontextmanager
    async def _get(
        self, uri: ObjectUri, length: int | None = None, start: int = 0
    ) -> AsyncIterator[tuple[Any, Head | None]]:
        """The answer to a GET, its body unread, and what it tells of the whole object."""
        async with self._web.request("GET", str(uri), range_of(length, start)) as answer:
            yield answer, facts_of(answer)

    @asynccontextmanager
    async def get(
        self, uri: ObjectUri, version: str = "", length: int | None = None, start: int = 0
    ) -> AsyncIterator[tuple[int, ReadPart]]:
        async with self._get(uri, length, start) as (answer, found):
            if version and (found is None or found[0] != version):
                raise Replaced("it is no longer what was listed")
            size = answer.content_length
            if size is None and length is None:
                raise ConnectionError("the answer does not say how long it is")
            yield size or 0, answer.content.read

    async def read_whole(self, uri: ObjectUri, max_bytes: int) -> bytes:
        """A small file, whose server need not say how long it is. Raises StoreRefusal past `max_bytes`."""
        held = bytearray()
        async with self._get(uri) as (answer, _):
            if (size := answer.content_length) is not None and size > max_bytes:
                raise _file_too_large(uri, max_bytes)
            async for part in answer.content.iter_chunked(2**16):
                held += part
                if len(held) > max_bytes:
                    raise _file_too_large(uri, max_bytes)
        return bytes(held)

    async def list_page(self, **arguments: object) -> Page:
        raise only_read(self.scheme)

    async def put(self, uri: ObjectUri, content: bytes, only_new: bool = False) -> str:
        raise only_read(self.scheme)

    async def delete(self, uri: ObjectUri, written: str = "") -> None:
        raise only_read(self.scheme)

    async def retry(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        return await retried(attempt, self._settings.attempts, is_transient)

    def kind_of(self, error: BaseException) -> ErrorKind:
        if isinstance(error, Replaced):
            return ErrorKind.REPLACED
        if isinstance(error, RefusedByServer):
            kinds = ((_GONE, ErrorKind.MISSING), (_DENIED, ErrorKind.DENIED), ({412}, ErrorKind.REPLACED))
            return next((kind for statuses, kind in kinds if error.status in statuses), ErrorKind.OTHER)
        return ErrorKind.CALLER if isinstance(error, StoreRefusal) else ErrorKind.OTHER

    def proves_absence(self, error: BaseException) -> bool:
        """What a server says of its own address, and not one that it redirects to."""
        return isinstance(error, RefusedByServer) and error.status in _GONE and not error.moved

    def code_of(self, error: BaseException) -> str:
        return str(error.status) if isinstance(error, RefusedByServer) else ""

    def store_error(self, error: Exception, uri: ObjectUri, attempted: str = "read") -> StoreError:
        if isinstance(error, StoreError):
            return error
        said = f"{uri} cannot be {attempted}: {self.redacted(error)}"
        if isinstance(error, Forbidden) or self.kind_of(error) is ErrorKind.DENIED:
            return StoreRefusal(said)
        return StoreError(said + (f", after {self._settings.attempts} tries" if is_transient(error) else ""))

    def redacted(self, error: BaseException) -> str:
        return redact(" ".join(str(error).split()) or type(error).__name__)[:_LONGEST_MESSAGE]

    def delta_options(self) -> dict[str, str]:
        raise only_read(self.scheme)


def only_read(scheme: Scheme) -> StoreRefusal:
    """The error of what cannot be written to."""
    return StoreRefusal(f"{scheme}:// is only read; a catalog, and what else is written, belongs elsewhere")


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed when it is sent again."""
    if isinstance(error, RefusedByServer):
        return error.status in (408, 425, 429) or (error.status >= 500 and error.status not in (501, 505))
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    from aiohttp import ClientError, InvalidURL

    return isinstance(error, ClientError) and not isinstance(error, InvalidURL)


def range_of(length: int | None, start: int = 0) -> dict[str, str]:
    return {} if length is None else {"Range": f"bytes={start}-{start + length - 1}"}


def facts_of(answer: Any) -> Head | None:
    """What an answer tells of the whole object; None if it does not tell its size."""
    size = answer.content_length
    if answer.status == 206:
        total = re.fullmatch(r"bytes [0-9]{1,18}-[0-9]{1,18}/([0-9]{1,18})", answer.headers.get("Content-Range", ""))
        size = int(total[1]) if total else None
    if size is None:
        return None
    changed = answer.headers.get("Last-Modified", "")
    said = (answer.headers.get("ETag") or changed or f"{size} bytes").strip('"')
    version = said.encode("ascii", "backslashreplace").decode()
    if len(version) > _LONGEST_VERSION:
        version = hashlib.sha256(version.encode()).hexdigest()
    return version, size, _time(changed)


def _time(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _file_too_large(uri: ObjectUri, max_bytes: int) -> StoreRefusal:
    return StoreRefusal(f"{uri} has more than {max_bytes >> 20:,} MiB; split it, or give it as a file")
