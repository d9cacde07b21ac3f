"""What the errors of a store that is spoken to over plain HTTP mean, in kinds and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sightflow.blocks.store.buckets.client import ErrorKind
from sightflow.blocks.store.buckets.http import RefusedRequest
from sightflow.blocks.store.buckets.listing import NotAListing
from sightflow.schemas.failure import SightflowError, StoreError, StoreRefusal
from sightflow.schemas.object_uri import ObjectUri
from sightflow.schemas.redaction import redact

_LONGEST_MESSAGE = 300


@dataclass(frozen=True)
class Codes:
    """The codes of a store's errors, by what they are about."""

    absent: frozenset[str]  # the store itself says that there is no such object
    no_bucket: frozenset[str]
    replaced: frozenset[str]
    denied: frozenset[str]
    bad_keys: frozenset[str]
    unsupported: frozenset[str]
    full: frozenset[str]

    def kind_of(self, error: BaseException) -> ErrorKind:
        """What an error is about."""
        if isinstance(error, SightflowError):
            return ErrorKind.CALLER
        if not isinstance(error, RefusedRequest):
            return ErrorKind.OTHER
        kinds = (
            (self.absent | {"404"}, ErrorKind.MISSING),
            (self.replaced | {"412"}, ErrorKind.REPLACED),
            (self.denied, ErrorKind.DENIED),
            (self.no_bucket | self.bad_keys, ErrorKind.CALLER),
            (self.unsupported, ErrorKind.UNSUPPORTED),
        )
        return next((kind for codes, kind in kinds if error.code in codes), ErrorKind.OTHER)


@dataclass(frozen=True)
class Words:
    """How a store's errors are told: `place` is where it is, `bucket` what it calls one; the others are advice."""

    place: str
    bucket: str
    no_keys: str
    keys: str
    address: str


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed when it is sent again."""
    if isinstance(error, RefusedRequest):
        return error.transient
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    from aiohttp import ClientError, InvalidURL

    return isinstance(error, ClientError) and not isinstance(error, InvalidURL)


def message_of(error: BaseException) -> str:
    """What an error says, on one line; it may repeat keys that were sent."""
    return " ".join(str(error).split()) or type(error).__name__


class RestErrors:
    """What a client of a REST API says of its errors; `codes` are its own."""

    codes: ClassVar[Codes]

    def proves_absence(self, error: BaseException) -> bool:
        return isinstance(error, RefusedRequest) and error.code in self.codes.absent

    def code_of(self, error: BaseException) -> str:
        return error.code if isinstance(error, RefusedRequest) else ""

    def redacted(self, error: BaseException) -> str:
        return redact(message_of(error))[:_LONGEST_MESSAGE]


def refusal(
    error: Exception, uri: ObjectUri, attempted: str, words: Words, codes: Codes, attempts: int, no_login: bool
) -> StoreError:
    """An error in words, without a key in them."""
    if isinstance(error, SightflowError):  # which tells a user already: no keys, or an extra that is missing
        return error if isinstance(error, StoreError) else StoreRefusal(str(error))
    said = redact(message_of(error))[:_LONGEST_MESSAGE]
    if no_login:
        return StoreRefusal(f"no keys for {words.place}: {said}; {words.no_keys}")
    code = error.code if isinstance(error, RefusedRequest) else ""
    if code in codes.no_bucket:
        named = "source" if attempted == "read" else "catalog"
        return StoreRefusal(
            f"there is no {words.bucket} {uri.bucket!r} at {words.place} ({code}); check the name in `{named}`"
        )
    if code in codes.denied | codes.bad_keys:
        clock = "set this machine's clock: it is too far from the store's" if _is_about_time(said) else words.keys
        return StoreRefusal(f"{words.place} refuses to let us {attempted} {uri} ({code}); {clock}")
    if code in codes.full:
        return StoreRefusal(
            f"{words.place} refuses to let us {attempted} {uri} ({code}); "
            "the store is full: make room, or raise its quota"
        )
    tried = f" after {attempts} tries" if is_transient(error) else ""
    if isinstance(error, NotAListing):
        return StoreError(
            f"{words.place} did not answer with a listing of {uri}{tried}: {said}; something else may be at this "
            f"address, or a proxy or gateway before it; {words.address}"
        )
    return StoreError(f"{words.place} does not answer for {uri}{tried}: {said}")


def _is_about_time(said: str) -> bool:
    """Whether a store refuses for the time that a request says it is of: Azure and Google's login say so in words."""
    return any(phrase in said.lower() for phrase in ("date header", "too old", "reasonable timeframe", "clock"))
