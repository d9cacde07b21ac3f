"""Requests to a store over plain HTTP: each with its bounds, and errors as the store answers them in XML."""

from __future__ import annotations

import asyncio
import logging
import re
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from xml.etree import ElementTree

from fsspec.asyn import get_loop

from sightflow.blocks.store.buckets.client import BucketSettings, ReadPart
from sightflow.blocks.store.buckets.listing import NotAListing

logger = logging.getLogger(__name__)

_LARGEST_ANSWER = 64 * 2**20  # five thousand keys of a kilobyte take some ten
_LARGEST_ERROR = 2**16
_SHOWN = 80
_CODE_CHARACTERS = re.compile(r"\w{1,80}", re.ASCII)


class RefusedRequest(Exception):
    """An answer of 300 or more. `code`: the store's own word, if it is one; else the status."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    @property
    def transient(self) -> bool:
        return self.status in (408, 429) or (self.status >= 500 and self.status not in (501, 507))


class AnswerTooLarge(Exception):
    """An answer that is no object, and larger than any that a store gives."""


@dataclass(frozen=True)
class Answer:
    """A whole answer; `headers` takes names in any case."""

    headers: Mapping[str, str]
    body: bytes


class HttpSession:
    """Requests on the event loop of fsspec, one try each, as they stand: URLs are neither changed nor followed."""

    def __init__(self, settings: BucketSettings) -> None:
        self._settings = settings
        self._session: Any = None

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """The whole answer to a request, within twice the time-out and 64 MiB. Raises RefusedRequest."""
        async with asyncio.timeout(2 * self._settings.timeout), self._request(method, url, headers, body) as answer:
            return Answer(answer.headers, await _bounded(answer, _LARGEST_ANSWER))

    @asynccontextmanager
    async def get(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[tuple[int, ReadPart]]:
        """How many bytes the body has that is answered, and the body; the caller bounds it. Raises RefusedRequest."""
        async with self._request("GET", url, headers, b"") as answer:
            if answer.content_length is None:
                raise ConnectionError("the answer does not say how long it is")
            yield answer.content_length, answer.content.read

    @asynccontextmanager
    async def _request(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> AsyncIterator[Any]:
        from yarl import URL

        # What a URL would be made of by others, e.g. of `..`, is another object's.
        request = self._opened().request(
            method, URL(url, encoded=True), headers=headers, data=body or None, allow_redirects=False
        )
        async with request as answer:
            if answer.status >= 300:
                async with asyncio.timeout(self._settings.timeout):
                    raise _refused(answer, await _bounded(answer, _LARGEST_ERROR))
            yield answer

    def _opened(self) -> Any:
        if self._session is None:
            import aiohttp

            silence = aiohttp.ClientTimeout(
                total=None, sock_connect=self._settings.timeout, sock_read=self._settings.timeout
            )
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._settings.concurrency),
                timeout=silence,
                auto_decompress=False,  # an object is what lies in the store
                trust_env=True,  # proxies
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "sightflow"},
                skip_auto_headers=("Accept-Encoding", "Content-Type"),
            )
            weakref.finalize(self, _close, self._session)
        return self._session


def _close(session: Any) -> None:
    loop = get_loop()
    if loop is not None and loop.is_running():
        asyncio.run_coroutine_threadsafe(session.close(), loop)


async def _bounded(answer: Any, largest: int) -> bytes:
    held = bytearray()
    async for part in answer.content.iter_chunked(2**16):
        held += part
        if len(held) > largest:
            answer.close()
            raise AnswerTooLarge(f"it sent more than {largest >> 10:,} KiB that are no object")
    return bytes(held)


def _refused(answer: Any, body: bytes) -> RefusedRequest:
    """The error that an answer speaks of: XML with a `Code`, a `Message` and perhaps details, and Azure's header."""
    code = answer.headers.get("x-ms-error-code", "")
    said = ""
    try:
        root = parse_xml(body)
        if root.tag == "Error":
            code = root.findtext("Code") or code
            told = (root.findtext(name) for name in ("Message", "Details", "AuthenticationErrorDetail"))
            said = " ".join(" ".join(text.split()) for text in told if text)
    except ValueError:
        said = body[:_SHOWN].decode(errors="replace").strip()
    if not _CODE_CHARACTERS.fullmatch(code):
        code = str(answer.status)
    return RefusedRequest(answer.status, code, said or str(answer.reason or ""))


def parse_xml(body: bytes) -> ElementTree.Element:
    """A document without namespaces in its names. Raises ValueError for what is none, or declares entities."""
    if b"<!DOCTYPE" in body[:1024] or b"<!ENTITY" in body:
        raise ValueError("it declares what XML of a store does not")
    try:
        root = ElementTree.fromstring(body)  # noqa: S314  entities are ruled out, and the bytes are bounded
    except ElementTree.ParseError:
        raise ValueError("it is no XML") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def parse_listing(body: bytes, root_name: str) -> ElementTree.Element:
    """The XML of a listing. Raises NotAListing for anything else: a gateway, a proxy or a sign-in page may answer."""
    try:
        root = parse_xml(body)
    except ValueError:
        root = None
    if root is None or root.tag != root_name:
        raise NotAListing(f"it begins with {body[:_SHOWN].decode(errors='replace')!r}")
    return root


def whole_number(text: str | None) -> int:
    """A number of bytes; -1 for what is none."""
    return int(text) if text and re.fullmatch(r"[0-9]{1,19}", text) else -1


def time_of(text: str | None) -> datetime | None:
    """A time as stores write it: ISO 8601, or RFC 1123 as in HTTP; None for what is no time."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            parsed = parse(text or "")
        except (TypeError, ValueError):
            continue
        return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return None
