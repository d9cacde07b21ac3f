"""The connection to an Azure storage account, in the REST API of its blob service.

https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api. Containers with a hierarchical namespace
(Data Lake Storage) are reached by it too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlencode
from xml.etree.ElementTree import Element

from sightflow.blocks.store.azure.account import Account, AzureSettings, find_account, open_login
from sightflow.blocks.store.azure.signature import shared_key
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
from sightflow.schemas.failure import StoreError
from sightflow.schemas.object_uri import ObjectUri, Scheme
from sightflow.schemas.redaction import remember

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_VERSION = "2021-12-02"  # of the REST API
_AUDIENCE = "https://storage.azure.com/.default"
_RENEWED_BEFORE = 300  # seconds before a token ends

CODES = Codes(
    absent=frozenset({"BlobNotFound"}),
    no_bucket=frozenset({"ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"}),
    replaced=frozenset({"BlobAlreadyExists", "ConditionNotMet", "TargetConditionNotMet"}),
    denied=frozenset(
        {"AuthorizationFailure", "AuthorizationPermissionMismatch", "AuthorizationResourceTypeMismatch"}
        | {"InsufficientAccountPermissions", "PublicAccessNotPermitted", "NoAuthenticationInformation"}
        | {"AuthorizationSourceIPMismatch", "AuthorizationServiceMismatch", "401", "403"}
    ),
    bad_keys=frozenset(
        {"AccountIsDisabled", "AuthenticationFailed", "InvalidAuthenticationInfo", "KeyBasedAuthenticationNotPermitted"}
        | {"AuthorizationProtocolMismatch", "InvalidResourceName"}
    ),
    unsupported=frozenset({"501", "NotImplemented"}),
    full=frozenset({"507", "InsufficientStorage"}),
)


class AzureClient(RestErrors):
    """`BucketClient` for `az://`: a container is what elsewhere is a bucket, a blob what is an object."""

    codes = CODES
    scheme = Scheme.AZURE
    write_condition = "If-None-Match"
    starts_anywhere = False  # a listing begins at its beginning, and each page names the next

    def __init__(self, settings: AzureSettings) -> None:
        self._settings = settings
        self._http = HttpSession(settings)
        self._found: Account | None = None
        self._login: Any = None
        self._token: tuple[str, float] = ("", 0.0)
        self._token_lock = asyncio.Lock()

    @property
    def account(self) -> Account:
        """Raises StoreRefusal if none is named."""
        if self._found is None:
            self._found = find_account(self._settings)
        return self._found

    async def open(self) -> None:
        if self.account.login:
            await self._bearer()

    # --- requests -------------------------------------------------------------------------------

    async def list_page(self, **arguments: Any) -> Page:
        query = {"restype": "container", "comp": "list", "prefix": arguments["Prefix"]}
        names = {"ContinuationToken": "marker", "Delimiter": "delimiter", "MaxKeys": "maxresults"}
        query |= {name: str(arguments[given]) for given, name in names.items() if given in arguments}
        answer = await self._send("GET", f"{self._container_url(arguments['Bucket'])}?{urlencode(query)}")
        page = _page(parse_listing(answer.body, "EnumerationResults"))
        check_page(page, arguments["Bucket"], arguments["Prefix"])
        return page

    async def head(self, uri: ObjectUri) -> Head | None:
        headers = (await self._send("HEAD", self._url(uri))).headers
        if headers.get("x-ms-meta-hdi_isfolder", headers.get("x-ms-resource-type")) in ("true", "directory"):
            raise ValueError("it is a folder")
        etag, size = headers.get("ETag"), whole_number(headers.get("Content-Length"))
        if not etag or size < 0 or "x-ms-request-id" not in headers:
            return None
        return etag, size, time_of(headers.get("Last-Modified"))

    @asynccontextmanager
    async def get(
        self, uri: ObjectUri, version: str = "", length: int | None = None, start: int = 0
    ) -> AsyncIterator[tuple[int, ReadPart]]:
        wanted = {"If-Match": f'"{version}"'} if version else {}
        if length is not None:
            wanted["x-ms-range"] = f"bytes={start}-{start + length - 1}"
        url, headers = await self._signed("GET", self._url(uri), wanted)
        async with self._http.get(url, headers) as body:
            yield body

    async def put(self, uri: ObjectUri, content: bytes, only_new: bool = False) -> str:
        headers = {"x-ms-blob-type": "BlockBlob"} | ({"If-None-Match": "*"} if only_new else {})
        await self._send("PUT", self._url(uri), headers, content)
        return ""

    async def delete(self, uri: ObjectUri, written: str = "") -> None:
        await self._send("DELETE", self._url(uri))

    async def retry(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        return await retried(attempt, self._settings.attempts, is_transient)

    async def _send(self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        url, signed = await self._signed(method, url, headers or {}, len(body))
        return await self._http.send(method, url, signed, body)

    async def _signed(
        self, method: str, url: str, headers: Mapping[str, str], length: int = 0
    ) -> tuple[str, dict[str, str]]:
        """The address and the headers of a request, with what opens the account in one of them."""
        signed = {**headers, "x-ms-date": formatdate(usegmt=True), "x-ms-version": _VERSION}
        account = self.account
        if account.key:
            signed["Authorization"] = shared_key(account.name, account.key, method, url, signed, length)
        elif account.sas:
            url += ("&" if "?" in url else "?") + account.sas
        elif account.login:
            signed["Authorization"] = f"Bearer {await self._bearer()}"
        return url, signed

    async def _bearer(self) -> str:
        async with self._token_lock:
            token, expires = self._token
            if expires - _RENEWED_BEFORE <= time.time():
                token, expires = self._token = await asyncio.to_thread(self._new_token)
            return token

    def _new_token(self) -> tuple[str, float]:
        if self._login is None:
            self._login = open_login(self._settings)
        token = self._login.get_token(_AUDIENCE)
        return remember(token.token), float(token.expires_on)

    def _container_url(self, container: str) -> str:
        return f"{self.account.url}/{quote(container, safe='$')}"

    def _url(self, uri: ObjectUri) -> str:
        if not uri.key or any(segment in (".", "..") for segment in uri.key.split("/")):
            raise ValueError("Azure has no blob of such a name")
        return f"{self._container_url(uri.bucket)}/{quote(uri.key, safe='/~')}"

    # --- errors ---------------------------------------------------------------------------------

    def kind_of(self, error: BaseException) -> ErrorKind:
        if _is_login_error(error):
            return ErrorKind.CALLER
        return CODES.kind_of(error)

    def store_error(self, error: Exception, uri: ObjectUri, attempted: str = "read") -> StoreError:
        logger.debug("a request about %s failed: %s: %s", uri, type(error).__name__, self.redacted(error))
        words = Words(
            "Azure" if self._found is None else self._found.url,
            "container",
            "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or "
            "AZURE_STORAGE_SAS_TOKEN, log in (az login, a managed identity, AZURE_CLIENT_ID ...), "
            "or `store: {anonymous: true}` for a public container",
            "check the keys (a SAS may have ended) and the account's roles and network rules",
            "check the address: `store.azure_endpoint_url`, or the account's name",
        )
        return refusal(error, uri, attempted, words, CODES, self._settings.attempts, _is_login_error(error))

    # --- delta-rs -------------------------------------------------------------------------------

    def delta_options(self) -> dict[str, str]:
        account = self.account
        options = {"azure_storage_account_name": account.name, "azure_storage_endpoint": account.url}
        if account.url.startswith("http://"):
            options["azure_allow_http"] = "true"
        if account.key:
            return options | {"azure_storage_account_key": account.key}
        if account.sas:
            return options | {"azure_storage_sas_key": account.sas}
        if account.login:
            return options | {"azure_storage_token": self._token_for_delta()}
        return options | {"azure_skip_signature": "true"}

    def _token_for_delta(self) -> str:
        token, expires = self._token
        if expires - _RENEWED_BEFORE <= time.time():
            try:
                token, _ = self._token = self._new_token()
            except Exception as error:  # what a login raises has many classes, and may hold keys
                raise self.store_error(error, ObjectUri(self.scheme, "", "")) from None
        return token


def _is_login_error(error: BaseException) -> bool:
    """Whether azure-identity found nothing to log in with, or was refused."""
    names = {each.__name__ for each in type(error).__mro__}
    return not names.isdisjoint({"ClientAuthenticationError", "CredentialUnavailableError"})


def _page(root: Element) -> Page:
    """A page in the form of S3's. Raises NotAListing for what names no blobs, or not whether more follows."""
    blobs, marker = root.find("Blobs"), root.find("NextMarker")
    if blobs is None or marker is None:
        raise NotAListing("it does not say what is there, or whether more follows")
    page: Page = {"Name": root.get("ContainerName"), "IsTruncated": bool(marker.text)}
    page |= {"Contents": [], "CommonPrefixes": []}
    if marker.text:
        page["NextContinuationToken"] = marker.text
    for each in blobs:
        name = each.find("Name")
        text = "" if name is None else name.text or ""
        if name is not None and name.get("Encoded") == "true":  # characters that XML cannot hold
            text = unquote(text)
        if each.tag == "BlobPrefix":
            page["CommonPrefixes"].append({"Prefix": text})
        elif each.findtext("Properties/ResourceType") != "directory":  # a folder of a hierarchical namespace
            page["Contents"].append(
                {
                    "Key": text,
                    "ETag": each.findtext("Properties/Etag") or "",
                    "Size": whole_number(each.findtext("Properties/Content-Length")),
                    "LastModified": time_of(each.findtext("Properties/Last-Modified")),
                }
            )
    return page
