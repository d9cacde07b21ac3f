"""Why an item failed: the cause classes of the quarantine, and the errors that stop a run."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum

from sightflow.schemas.redaction import redact


class Cause(StrEnum):
    """The class of a failure. Transient causes are tried again by the next run, permanent ones are not."""

    UNREADABLE = "unreadable"  # empty, or a known format whose header makes no sense
    UNSUPPORTED = "unsupported"  # the bytes are of no media format that is taken here
    TOO_LARGE = "too_large"  # past the limits on bytes, pixels, frames or seconds
    CHANGED = "changed"  # replaced between plan and fetch; the next plan sees the new version
    FETCH = "fetch"  # the store did not give the bytes, also after retries
    DECODE = "decode"  # a known format whose content could not be decoded
    OUT_OF_MEMORY = "out_of_memory"  # alone in its batch, and still too much for the device
    RATE_LIMITED = "rate_limited"  # the provider kept refusing for load
    REFUSED = "refused"  # the model or the provider's safety filter declined
    TRUNCATED = "truncated"  # the reply reached its length limit before it ended
    MALFORMED = "malformed"  # the reply could not be parsed into the result asked for
    SCHEMA = "schema"  # parsed, but the row breaks the catalog's schema
    MODEL = "model"  # the model raised, or its endpoint failed
    BUDGET = "budget"  # one request of it may cost more than the whole budget allows

    @property
    def transient(self) -> bool:
        """Whether trying the same thing again later may succeed."""
        return self in _TRANSIENT


_TRANSIENT = frozenset({Cause.CHANGED, Cause.FETCH, Cause.RATE_LIMITED, Cause.MODEL, Cause.BUDGET})


class Stage(StrEnum):
    """A stage on the way of an item: where it failed, or where time was spent."""

    NOTIFY = "notify"  # a storage notification, before there is an object
    FETCH = "fetch"
    DECODE = "decode"
    INFER = "infer"
    VALIDATE = "validate"
    PUBLISH = "publish"  # nothing fails here one by one: a commit is for all or none


@dataclass(frozen=True)
class Failure:
    """One item's failure, as it goes to the quarantine."""

    cause: Cause
    message: str
    stage: Stage = Stage.INFER
    attempts: int = 1
    raw_reply: str | None = None


class SightflowError(Exception):
    """A run cannot go on. The message says what is wrong and what to do next, and holds no key."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class SpecError(SightflowError):
    """The spec is not usable as written; raised before anything is listed or spent."""


class StoreError(SightflowError):
    """The object store or the catalog cannot be reached or refuses us."""


class StoreRefusal(StoreError):
    """Every request is refused, as the next will be: keys, rights, a clock that is wrong, a full disk."""


class EmptySource(StoreError):
    """A source lists no object, which is far more often a mistake than an empty bucket."""


class MissingExtra(SightflowError):
    """A package is not installed that only an extra brings; the message gives the command."""


class ModelError(SightflowError):
    """A model cannot be used at all: missing weights, a bad key, a retired id, no device."""


class BudgetMet(SightflowError):
    """The budget allows no further request for now. What was answered before is published, the rest is left."""


class RequestTooExpensive(SightflowError):
    """One request may cost more than the whole budget of a run, a day or a month: it can never be sent under it."""


_OF_THIS_MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE})


def is_about_this_machine(error: BaseException | None) -> bool:
    """Whether the operating system can do for nothing what it could not do for this: its disk is full or read-only, a
    quota is used up, too many files are open.
    """
    return isinstance(error, OSError) and error.errno in _OF_THIS_MACHINE
