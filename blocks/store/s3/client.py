"""The connection to an S3 store: its client, credentials, retries, and what its errors mean to a user."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from sightflow.blocks.store.buckets.client import ErrorKind, Head, ReadPart, retried
from sightflow.blocks.store.buckets.listing import NotAListing, Page
from sightflow.blocks.store.buckets.pages import check_page
from sightflow.blocks.store.s3.answers import bounded_session, check_body
from sightflow.blocks.store.s3.credentials import S3Credentials, S3Settings
from sightflow.blocks.store.s3.errors import (
    BAD_KEY_CODES,
    CLOCK_CODES,
    DENIED_CODES,
    FULL_CODES,
    REGION_CODES,
    code_of,
    is_transient,
    kind_of,
    lacks_credentials,
    message_of,
)
from sightflow.schemas.failure import StoreError, StoreRefusal
from sightflow.schemas.object_uri import ObjectUri, Scheme
from sightflow.schemas.redaction import redact, remember

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_LONGEST_MESSAGE = 300


class S3Client:
    """`BucketClient` for `s3://`, by aiobotocore as s3fs opens it."""

    scheme = Scheme.S3
    write_condition = "If-None-Match"
    starts_anywhere = True

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._credentials = S3Credentials(settings)
        # What goes with every request about an object or a listing, and with what is written.
        self._payer = {"RequestPayer": "requester"} if settings.requester_pays else {}
        self._encryption = (
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": settings.kms_key_id} if settings.kms_key_id else {}
        )
        self._filesystem: Any = None

    async def open(self) -> None:
        await self._opened()

    async def _opened(self) -> Any:
        """The client of aiobotocore, opened at the first call."""
        if self._filesystem is None:
            self._filesystem = self._open_filesystem()
        return await self._filesystem.set_session()

    async def _call(self, operation: str, uri: ObjectUri, **arguments: Any) -> Any:
        """The answer to one request about an object. Raises what the SDK raises.

        A whole answer, but for a body that is read later, has twice the time-out, which is of the silence in it.
        """
        client = await self._opened()
        async with asyncio.timeout(2 * self._settings.timeout):
            return await getattr(client, operation)(Bucket=uri.bucket, Key=uri.key, **self._payer, **arguments)

    async def list_page(self, **arguments: Any) -> Page:
        client = await self._opened()
        async with asyncio.timeout(2 * self._settings.timeout):
            page: Page = await client.list_objects_v2(**self._payer, **arguments)
        check_page(page, arguments["Bucket"], arguments["Prefix"])
        return page

    async def head(self, uri: ObjectUri) -> Head | None:
        head = await self._call("head_object", uri)
        etag, size = head.get("ETag"), head.get("ContentLength")
        return None if not etag or size is None else (etag, size, head.get("LastModified"))

    @asynccontextmanager
    async def get(
        self, uri: ObjectUri, version: str = "", length: int | None = None, start: int = 0
    ) -> AsyncIterator[tuple[int, ReadPart]]:
        wanted = {"IfMatch": f'"{version}"'} if version else {}
        if length is not None:
            wanted["Range"] = f"bytes={start}-{start + length - 1}"
        client = await self._opened()
        answer = await client.get_object(Bucket=uri.bucket, Key=uri.key, **self._payer, **wanted)
        async with answer["Body"] as body:
            yield int(answer["ContentLength"]), body.read

    async def put(self, uri: ObjectUri, content: bytes, only_new: bool = False) -> str:
        condition = {"IfNoneMatch": "*"} if only_new else {}
        written = await self._call("put_object", uri, Body=content, **self._encryption, **condition)
        return str(written.get("VersionId") or "")

    async def delete(self, uri: ObjectUri, written: str = "") -> None:
        await self._call("delete_object", uri, **({"VersionId": written} if written else {}))

    async def retry(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        return await retried(attempt, self._settings.attempts, is_transient)

    def store_error(self, error: Exception, uri: ObjectUri, attempted: str = "read") -> StoreError:
        code, where = code_of(error), self._settings.endpoint_url or "AWS S3"
        # The traceback ends here, since it may hold keys; what was raised is told to who looks for it.
        logger.debug("a request about %s failed: %s: %s", uri, type(error).__name__, self.redacted(error))
        if getattr(error, "operation_name", "") == "AssumeRole":
            return self._role_error(error)
        if code == "NoSuchBucket":
            named = "source" if attempted == "read" else "catalog"
            return StoreRefusal(f"there is no bucket {uri.bucket!r} at {where}; check the name in `{named}`")
        remedies = (
            (CLOCK_CODES, "set this machine's clock: it is too far from the store's"),
            (REGION_CODES, "check `store: region`"),
            (DENIED_CODES | BAD_KEY_CODES, "check the keys and the bucket's policy"),
            (FULL_CODES, "the store is full: make room, or raise its quota"),
        )
        if remedy := next((remedy for codes, remedy in remedies if code in codes), None):
            return StoreRefusal(f"{where} refuses to let us {attempted} {uri} ({code}); {remedy}")
        if lacks_credentials(error):
            return StoreRefusal(
                f"no keys for {where}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role, "
                "or `store: {anonymous: true}` for a public bucket"
            )
        tried = f" after {self._settings.attempts} tries" if is_transient(error) else ""
        if isinstance(error, NotAListing):
            return StoreError(
                f"{where} did not answer with a listing of {uri}{tried}: {self.redacted(error)}; "
                "something else may be at this address (`store.endpoint_url`), or a proxy or gateway before it"
            )
        return StoreError(f"{where} does not answer for {uri}{tried}: {self.redacted(error)}")

    def kind_of(self, error: BaseException) -> ErrorKind:
        return kind_of(error)

    def proves_absence(self, error: BaseException) -> bool:
        return code_of(error) == "NoSuchKey"

    def code_of(self, error: BaseException) -> str:
        return code_of(error)

    def redacted(self, error: BaseException) -> str:
        return redact(message_of(error))[:_LONGEST_MESSAGE]

    def delta_options(self) -> dict[str, str]:
        """The connection in the words of delta-rs; holds secrets."""
        session, settings = self._credentials.session(), self._settings
        options = {"aws_conditional_put": "etag"}  # two writers of one commit: the second is told
        endpoint = settings.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            options["aws_endpoint_url"] = endpoint
            if endpoint.startswith("http://"):
                options["aws_allow_http"] = "true"
        if settings.anonymous:
            options["aws_skip_signature"] = "true"
        options["aws_region"] = settings.region or session.get_config_variable("region") or "us-east-1"
        if settings.requester_pays:
            options["aws_request_payer"] = "true"
        if settings.kms_key_id:
            options |= {"aws_server_side_encryption": "aws:kms", "aws_sse_kms_key_id": settings.kms_key_id}
        try:
            return options | {f"aws_{name}": value for name, value in self._credentials.for_delta().items()}
        except Exception as error:  # the SDK has no common class of errors, and some hold keys
            raise self._role_error(error) from None

    def _role_error(self, error: Exception) -> StoreError:
        """Why a role could not be taken on, or a login of a profile not renewed."""
        what = f"the role {self._settings.role_arn}" if self._settings.role_arn else "the AWS login"
        kind = StoreError if is_transient(error) else StoreRefusal
        code = code_of(error) or type(error).__name__
        return kind(
            f"{what} is not given to us ({code}): {self.redacted(error)}; check `store.role_arn`, "
            "`store.role_external_id` and the role's trust policy"
        )

    def _open_filesystem(self) -> Any:
        import s3fs
        from aiobotocore.session import AioSession

        session, settings = AioSession(profile=self._settings.profile), self._settings
        # The SDK's own reader of times takes two thirds of the time that reading a page of a listing takes.
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_timestamp)
        session.register("before-parse.s3.ListObjectsV2", check_body)
        session.register("before-send.s3", _remember_sent)
        return s3fs.S3FileSystem(
            session=session,
            anon=settings.anonymous,
            endpoint_url=settings.endpoint_url,
            client_kwargs={"region_name": settings.region} if settings.region else {},
            # One retry layer, here: the SDK's own cannot retry a body that was cut short.
            config_kwargs={
                "http_session_cls": bounded_session(),
                "retries": {"total_max_attempts": 1},
                "max_pool_connections": settings.concurrency,
                "connect_timeout": settings.timeout,
                "read_timeout": settings.timeout,
                # The SDK would put its own name together anew for every request.
                "user_agent": "sightflow",
            },
            skip_instance_cache=True,
            use_listings_cache=False,
            **self._credentials.for_requests(session),
        )


def _remember_sent(request: Any, **_: Any) -> None:
    """Have what a request is sent with, and a store may repeat, taken out of all text; the secret key is never sent."""
    signed, token = (request.headers.get(name, b"") for name in ("Authorization", "X-Amz-Security-Token"))
    for secret in (_as_text(signed).partition("Credential=")[2].partition("/")[0], _as_text(token)):
        remember(secret)


def _as_text(header: str | bytes) -> str:
    return header.decode("latin-1") if isinstance(header, bytes) else header


def _parse_timestamp(value: Any) -> datetime | None:
    """A time as S3 writes it: ISO 8601 in listings, RFC 1123 in headers; None for what is no time."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        with suppress(TypeError, ValueError):
            parsed = parse(value)
            return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    from botocore.utils import parse_timestamp

    with suppress(TypeError, ValueError, OverflowError, RuntimeError):
        return parse_timestamp(value)  # type: ignore[no-any-return]
    return None
