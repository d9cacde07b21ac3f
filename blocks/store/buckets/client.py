"""What a protocol of object stores must be able to do: S3's, Google's and Azure's are the three there are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from enum import Enum, auto
from typing import Protocol, TypeVar

from sightflow.blocks.store.buckets.listing import Page
from sightflow.schemas.failure import StoreError
from sightflow.schemas.object_uri import ObjectUri, Scheme

Result = TypeVar("Result")

Head = tuple[str, int, datetime | None]
"""The version of an object (S3: ETag, Google: generation, Azure: ETag), its bytes, and when it was changed."""
ReadPart = Callable[[int], Awaitable[bytes]]
"""Gives at most so many bytes of a body, none at its end."""


async def retried(
    attempt: Callable[[], Awaitable[Result]], attempts: int, is_transient: Callable[[BaseException], bool]
) -> Result:
    """Attempt until it succeeds, with full jitter (0 to 0.2, 0.4, ... 20 s) after each transient error."""
    from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    retrying = AsyncRetrying(
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.2, max=20),
        retry=retry_if_exception(is_transient),
        reraise=True,
    )

    async def once() -> Result:
        return await attempt()

    return await retrying(once)


class ErrorKind(Enum):
    """What an error of a store is about."""

    MISSING = auto()  # one object, which is not there; to a HEAD also a bucket or a gateway's answer
    REPLACED = auto()  # one object, which is not the version that was asked for, or is there and should not be
    DENIED = auto()  # one object, or all of them
    CALLER = auto()  # keys, clock, bucket or settings, so that no other request would fare better
    UNSUPPORTED = auto()  # a condition of a write that the store does not know
    OTHER = auto()


class BucketSettings(Protocol):
    """What every protocol needs of the settings of an `ObjectStore`."""

    concurrency: int
    attempts: int
    timeout: float


class BucketClient(Protocol):
    """Requests to one store, on the event loop of fsspec: one try each, bounded in time and, but for bodies of objects,
    in bytes. Each raises what its library raises, which `kind_of` and what follows it understand.
    """

    scheme: Scheme
    write_condition: str
    """The header by which a write fails if the object is there."""
    starts_anywhere: bool
    """Whether a listing can begin after any key, so that many requests share it."""

    async def open(self) -> None:
        """Open the client, which may look up keys; the store is asked nothing."""

    async def list_page(self, **arguments: object) -> Page:
        """A page, checked, for the arguments of S3's ListObjectsV2. An entry's `ETag` is the object's version."""

    async def head(self, uri: ObjectUri) -> Head | None:
        """What is told of an object; None if the answer is not one that such a store gives."""

    def get(
        self, uri: ObjectUri, version: str = "", length: int | None = None, start: int = 0
    ) -> AbstractAsyncContextManager[tuple[int, ReadPart]]:
        """How many bytes an object's body has, and the body; of a version, if given, and `length` bytes from `start`
        on, if that is given.
        """

    async def put(self, uri: ObjectUri, content: bytes, only_new: bool = False) -> str:
        """Write an object; what `delete` takes to remove it in a bucket that keeps versions."""

    async def delete(self, uri: ObjectUri, written: str = "") -> None:
        """Remove an object, or just what a `put` has written."""

    async def retry(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """`retried`, by what is transient in this protocol."""

    def kind_of(self, error: BaseException) -> ErrorKind:
        """What an error is about."""

    def proves_absence(self, error: BaseException) -> bool:
        """Whether the store itself says, in the answer to a GET, that there is no such object."""

    def code_of(self, error: BaseException) -> str:
        """The store's own code for an error, or its HTTP status, or an empty string."""

    def store_error(self, error: Exception, uri: ObjectUri, attempted: str = "read") -> StoreError:
        """An error in words, without a key in them."""

    def redacted(self, error: BaseException) -> str:
        """The message of an error, without the keys that it may repeat."""

    def delta_options(self) -> dict[str, str]:
        """The connection in the words of delta-rs; holds secrets."""
