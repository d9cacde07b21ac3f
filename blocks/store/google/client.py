"""The connection to Google Cloud Storage, in its XML API, which delta-rs speaks too.

https://cloud.google.com/storage/docs/xml-api/overview
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlencode
from xml.etree.ElementTree import Element

from sightflow.blocks.store.buckets.client import ErrorKind, Head, ReadPart, retried
from sightflow.blocks.store.buckets.http import (
    Answer,
    HttpSession,
    parse_listing,
    time_of,
    whole_number,
)
from sightflow.blocks.store.buckets.listing import NotAListing, Page
from sightflow.blocks.store.buckets.pages import check_page
from sightflow.blocks.store.buckets.rest_errors import Codes, RestErrors, Words, is_transient, refusal
from sightflow.blocks.store.google.credentials import (
    GoogleSettings,
    delta_credentials,
    host_of,
    is_unsigned,
    open_credentials,
)
from sightflow.schemas.failure import StoreError
from sightflow.schemas.object_uri import ObjectUri, Scheme
from sightflow.schemas.redaction import remember

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


CODES = Codes(
    absent=frozenset({"NoSuchKey"}),
    no_bucket=frozenset({"NoSuchBucket", "InvalidBucketName"}),
    replaced=frozenset({"PreconditionFailed"}),
    denied=frozenset({"AccessDenied", "Forbidden", "AuthenticationRequired", "401", "403"}),
    bad_keys=frozenset(
        {"AccountProblem", "ExpiredToken", "InvalidSecurity", "InvalidToken", "UserProjectAccessDenied"}
        | {"UserProjectInvalid", "UserProjectMissing", "UserProjectAccountProblem"}
    ),
    unsupported=frozenset({"501", "NotImplemented"}),
    full=frozenset({"507", "InsufficientQuota"}),
)


class GoogleClient(RestErrors):
    """`BucketClient` for `gs://`. The version of an object is its generation."""

    codes = CODES
    scheme = Scheme.GOOGLE
    write_condition = "x-goog-if-generation-match"
    starts_anywhere = True

    def __init__(self, settings: GoogleSettings) -> None:
        self._settings = settings
        self._http = HttpSession(settings)
        self._host = host_of(settings)
        self._credentials: Any = None
        self._token_lock = asyncio.Lock()

    async def open(self) -> None:
        await self._token()

    # --- requests -------------------------------------------------------------------------------

    async def list_page(self, **arguments: Any) -> Page:
        names = {"StartAfter": "start-after", "ContinuationToken": "continuation-token", "Delimiter": "delimiter"}
        names |= {"MaxKeys": "max-keys", "Prefix": "prefix"}
        query = {"list-type": "2", "encoding-type": "url"}
        query |= {name: str(arguments[given]) for given, name in names.items() if given in arguments}
        url = f"{self._host}/{quote(arguments['Bucket'], safe='')}?{urlencode(query)}"
        answer = await self._send("GET", url)
        page = _page(parse_listing(answer.body, "ListBucketResult"))
        check_page(page, arguments["Bucket"], arguments["Prefix"])
        return page

    async def head(self, uri: ObjectUri) -> Head | None:
        # Else what is kept compressed would be told, and given, as what it is made of.
        headers = (await self._send("HEAD", self._url(uri), {"Accept-Encoding": "gzip"})).headers
        generation = headers.get("x-goog-generation", "")
        size = whole_number(headers.get("x-goog-stored-content-length", headers.get("Content-Length")))
        if not generation.isdecimal() or size < 0:
            return None
        return generation, size, time_of(headers.get("Last-Modified"))

    @asynccontextmanager
    async def get(
        self, uri: ObjectUri, version: str = "", length: int | None = None, start: int = 0
    ) -> AsyncIterator[tuple[int, ReadPart]]:
        wanted = {"Accept-Encoding": "gzip"}
        if version:
            wanted["x-goog-if-generation-match"] = version
        if length is not None:
            wanted["Range"] = f"bytes={start}-{start + length - 1}"
        async with self._http.get(self._url(uri), await self._signed(wanted)) as body:
            yield body

    async def put(self, uri: ObjectUri, content: bytes, only_new: bool = False) -> str:
        condition = {"x-goog-if-generation-match": "0"} if only_new else {}
        written = await self._send("PUT", self._url(uri), condition, content)
        return written.headers.get("x-goog-generation", "")

    async def delete(self, uri: ObjectUri, written: str = "") -> None:
        await self._send("DELETE", self._url(uri) + (f"?generation={quote(written)}" if written else ""))

    async def retry(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        return await retried(attempt, self._settings.attempts, _is_transient)

    async def _send(self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        return await self._http.send(method, url, await self._signed(headers or {}), body)

    async def _signed(self, headers: Mapping[str, str]) -> dict[str, str]:
        signed = dict(headers)
        if token := await self._token():
            signed["Authorization"] = f"Bearer {token}"
        if self._settings.requester_pays and self._settings.google_project:
            signed["x-goog-user-project"] = self._settings.google_project
        return signed

    async def _token(self) -> str:
        """What requests are sent with, renewed before it ends; empty for none."""
        if is_unsigned(self._settings):
            return ""
        async with self._token_lock:
            if self._credentials is None:
                self._credentials = await asyncio.to_thread(open_credentials, self._settings)
            if not self._credentials.valid:
                await asyncio.to_thread(self._refresh)
            return remember(str(self._credentials.token))

    def _refresh(self) -> None:
        from google.auth.transport.requests import Request

        self._credentials.refresh(Request())

    def _url(self, uri: ObjectUri) -> str:
        if not uri.key:
            raise ValueError("a bucket is no object")
        # A proxy may take `.`, `..` and empty segments out of a path: there the slashes are encoded, too.
        odd = not {"", ".", ".."}.isdisjoint(uri.key.split("/"))
        return f"{self._host}/{quote(uri.bucket, safe='')}/{quote(uri.key, safe='~' if odd else '/~')}"

    # --- errors ---------------------------------------------------------------------------------

    def kind_of(self, error: BaseException) -> ErrorKind:
        return ErrorKind.CALLER if _is_login_error(error) else CODES.kind_of(error)

    def store_error(self, error: Exception, uri: ObjectUri, attempted: str = "read") -> StoreError:
        logger.debug("a request about %s failed: %s: %s", uri, type(error).__name__, self.redacted(error))
        words = Words(
            self._host,
            "bucket",
            "check the credentials (GOOGLE_APPLICATION_CREDENTIALS, gcloud auth application-default login, a saved "
            "block) and this machine's clock",
            "check the credentials and the bucket's IAM policy; a requester-pays bucket needs `store.google_project`",
            "check `store.google_endpoint_url` and STORAGE_EMULATOR_HOST",
        )
        return refusal(error, uri, attempted, words, CODES, self._settings.attempts, _is_login_error(error))

    # --- delta-rs -------------------------------------------------------------------------------

    def delta_options(self) -> dict[str, str]:
        options = {"google_base_url": self._host}
        if self._host.startswith("http://"):
            options["allow_http"] = "true"
        return options | delta_credentials(self._settings)


def _is_transient(error: BaseException) -> bool:
    """Also a login that could not be reached, or says itself that it may be tried again."""
    return is_transient(error) or (type(error).__name__ == "TransportError" or bool(getattr(error, "retryable", False)))


def _is_login_error(error: BaseException) -> bool:
    """Whether google-auth was refused a token."""
    return any(each.__name__ == "GoogleAuthError" for each in type(error).__mro__) and not _is_transient(error)


def _page(root: Element) -> Page:
    """A page in the form of S3's. Raises NotAListing for what does not say whether more follows."""
    truncated = root.findtext("IsTruncated")
    if truncated not in ("true", "false"):
        raise NotAListing("it does not say whether more follows (IsTruncated)")
    page: Page = {"Name": root.findtext("Name"), "IsTruncated": truncated == "true"}
    if token := root.findtext("NextContinuationToken"):
        page["NextContinuationToken"] = token
    encoded = root.findtext("EncodingType") == "url"
    text = unquote if encoded else str
    page["CommonPrefixes"] = [
        {"Prefix": text(each.findtext("Prefix") or "")} for each in root.findall("CommonPrefixes")
    ]
    page["Contents"] = [
        {
            "Key": text(each.findtext("Key") or ""),
            "ETag": each.findtext("Generation") or "",
            "Size": whole_number(each.findtext("Size")),
            "LastModified": time_of(each.findtext("LastModified")),
        }
        for each in root.findall("Contents")
    ]
    return page
