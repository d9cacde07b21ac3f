"""What is put to a hosted model and what comes back: an answer, or that it declined, why, and when to ask again."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any

from sightflow.blocks.models.contract import BilledFailure, Generated, Output, Prompt
from sightflow.blocks.models.engines.providers.image_encoding import EncodedImage
from sightflow.blocks.models.engines.providers.rate_limits import parse_duration
from sightflow.blocks.models.metering import METER
from sightflow.blocks.models.video.frame_prompts import frame_titles
from sightflow.schemas.failure import Cause, Failure
from sightflow.schemas.media import DecodedVideo
from sightflow.schemas.vision import Usage, VisionRequest

_RETRIED = frozenset({408, 409, 429})
_FIRST_WAIT = 1.0
_LONGEST_BACKOFF = 60.0
_MAX_TOKENS = 10**9


@dataclass(frozen=True)
class ProviderRequest:
    """One prompt about one media object, as it is sent.

    `images`: the image or the frames, encoded once for all tries. `correction`: an unreadable reply to this question
    and what to say about it, when the question is put again.
    """

    request: VisionRequest
    prompt: Prompt
    images: tuple[EncodedImage, ...] = ()
    correction: tuple[str, str] | None = None

    @property
    def shown(self) -> list[tuple[str, EncodedImage]]:
        """The images, each with the words that stand before it: of an image none, of a frame number and time."""
        media = self.request.media
        titles = frame_titles(media) if isinstance(media, DecodedVideo) else [""]
        return list(zip(titles, self.images, strict=False))


@dataclass(frozen=True)
class ProviderResponse:
    """The model was run, and the tokens are billed.

    `cause`: why the text is no reply all the same (refused, empty), with `why` in words; a reply that
    reached its length limit is `truncated`. `served_id`: the model that the provider says answered. Of the input,
    `cached_input_tokens`, `cache_write_tokens`, `audio_input_tokens`: as in `Usage`.
    """

    text: str
    input_tokens: int = 0
    output_tokens: int = 0
    served_id: str | None = None
    truncated: bool = False
    cause: Cause | None = None
    why: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    audio_input_tokens: int = 0

    @property
    def usage(self) -> Usage:
        """The tokens, not yet priced."""
        return Usage(
            self.input_tokens,
            self.output_tokens,
            cached_input_tokens=self.cached_input_tokens,
            cache_write_tokens=self.cache_write_tokens,
            audio_input_tokens=self.audio_input_tokens,
        )


@dataclass(frozen=True)
class ProviderError:
    """The model was not run, or nobody knows. `status`: of HTTP, None if no whole answer came back.

    `cause`: set if the request itself is to blame (a safety filter, say), so that it is not sent again.
    `fatal_reason`: set, in words, if it concerns every request: no credit left, say.
    """

    status: int | None
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    cause: Cause | None = None
    fatal_reason: str = ""
    retry_after: float | None = None

    @property
    def retryable(self) -> bool:
        """Whether the same request may be answered a little later."""
        if self.cause is not None or self.fatal:
            return False
        return self.status is None or self.status in _RETRIED or self.status >= 500

    @property
    def fatal(self) -> bool:
        """Whether every other request would be declined as well: key, permission, model id, account."""
        return bool(self.fatal_reason) or (self.cause is None and self.status in (401, 402, 403, 404))

    @property
    def as_cause(self) -> Cause:
        """The class of the failure, once no further try is made."""
        if self.cause is not None:
            return self.cause
        return {429: Cause.RATE_LIMITED, 413: Cause.TOO_LARGE}.get(self.status or 0, Cause.MODEL)

    def requested_wait(self, epoch: float) -> float | None:
        """The seconds that the provider asks to wait, if it does; `epoch`: the present, since 1970."""
        return self.retry_after if self.retry_after is not None else retry_after(self.headers, epoch)

    def backoff(self, attempt: int, requested: float | None, rng: random.Random) -> float:
        """Seconds to wait after the try with this number (from 1): what was asked and up to a second more, or
        exponential backoff with full jitter.
        """
        if requested is not None:
            return requested + rng.uniform(0, _FIRST_WAIT)
        return rng.uniform(0, min(_LONGEST_BACKOFF, _FIRST_WAIT * 2 ** (attempt - 1)))


@dataclass
class CallRecord:
    """All that was replied to one prompt, and what it cost. `outcome`: None until there is one; it stays so if the run
    was stopped before.
    """

    outcome: Generated | Failure | None = None
    attempts: int = 0
    usage: Usage = field(default_factory=Usage)
    transcript: list[str] = field(default_factory=list)
    served_id: str | None = None

    @property
    def output(self) -> Output | None:
        """What the model's loop is given of it; None if the prompt is still to be asked."""
        if self.outcome is None:
            return None
        spent: dict[str, Any] = {
            "usage": self.usage,
            "served_id": self.served_id,
            "transcript": tuple(self.transcript),
        }
        if isinstance(self.outcome, Generated):
            return replace(self.outcome, attempts=self.attempts, **spent)
        failure = self.outcome
        return BilledFailure(failure.cause, failure.message, failure.stage, max(self.attempts, 1), None, **spent)


class CallScope:
    """One call of `generate`; what concerns every item stops it, in all its threads. `meter`: who counts what it costs,
    if anybody does; `over_budget`: whether that is what has stopped it.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.error: str | None = None
        self.meter = METER.get()
        self.over_budget = False


def retry_after(headers: Mapping[str, str], epoch: float) -> float | None:
    """The seconds that a response asks to wait: `Retry-After` (RFC 9110, seconds or a date) or OpenAI's
    `retry-after-ms`; None if it does not say. `epoch`: the present, in seconds since 1970.
    """
    lowered = {name.lower(): str(value).strip() for name, value in headers.items()}
    if (milliseconds := parse_duration(lowered.get("retry-after-ms", ""))) is not None:
        return milliseconds / 1000
    value = lowered.get("retry-after", "")
    if (seconds := parse_duration(value)) is not None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - epoch)
    except (ValueError, TypeError, OverflowError):
        return None


def stop_reason(
    answer: ProviderError, message: str, model_id: str, successor: str, key_variables: Sequence[str]
) -> str:
    """What ends a run, in words, with what to do about it. `message`: the provider's words, without the key."""
    if answer.fatal_reason:
        return answer.fatal_reason
    if answer.status == 401:
        return f"the API key was refused (HTTP 401); check {' or '.join(key_variables)} or the block's api_key"
    if answer.status == 402:
        return f"the account has no credit left (HTTP 402: {message}); add some, or raise its limit, at the vendor"
    if answer.status == 403:
        return f"the API key may not use {model_id} (HTTP 403): {message}; allow it in the vendor's console"
    use = f", or set id to its successor, {successor}" if successor != model_id else ""
    return f"{model_id} is not served there (HTTP {answer.status}): {message}; check id and base_url{use}"


def as_text(value: Any) -> str:
    """A text as a provider reports it; what should be text and is not, as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, default=str, ensure_ascii=False)


def as_token_count(value: Any) -> int:
    """A number of tokens as a provider reports it; 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_TOKENS else 0
