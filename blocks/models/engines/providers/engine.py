"""A model behind an HTTP API: requests in flight, retries, limits, one repair of a reply that cannot be read.

Tries, waits and limits are kept here and nowhere else: the SDKs' own retries are off.
"""

from __future__ import annotations

import logging
import random
import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from sightflow.blocks.models.contract import (
    LEAST_OBJECTS,
    Engine,
    Generated,
    GenerationRequest,
    Incomplete,
    Output,
    ReplyError,
)
from sightflow.blocks.models.engines.providers.account import Account, ProviderSystem
from sightflow.blocks.models.engines.providers.image_encoding import EncodedImage, encode_image
from sightflow.blocks.models.engines.providers.messages import (
    CallRecord,
    CallScope,
    ProviderError,
    ProviderRequest,
    ProviderResponse,
    stop_reason,
)
from sightflow.blocks.models.engines.providers.metered import MeteredRequests, answer_cost
from sightflow.blocks.models.engines.providers.rate_limits import Clock, RateLimiter
from sightflow.blocks.models.engines.providers.request_order import send_in_turn
from sightflow.blocks.models.engines.providers.transport.bounded_answers import (
    TIMEOUTS,
    TRUST,
    AnswerTooLarge,
    broken_bound,
    is_untrusted,
    within,
)
from sightflow.blocks.models.hosted_profiles import text_tokens
from sightflow.blocks.models.metering import OverBudget
from sightflow.blocks.models.reply_forms import FreeText, ReplyForm
from sightflow.schemas.failure import Cause, Failure, ModelError
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.redaction import HIDDEN, redact
from sightflow.schemas.vision import VisionRequest

Answer = TypeVar("Answer")

_logger = logging.getLogger(__name__)
# So many answers 403 in a row, and it is the key's right that has gone; fewer are about what was in the requests, as a
# firewall sees it.
_MOST_DENIED = 3
_LONGEST_QUOTED = 4000  # characters of an unreadable reply that are sent back with the complaint


class ProviderEngine(Engine):
    """Sends prompts to one model of one account, many at once. The key is shown nowhere."""

    def __init__(self, system: ProviderSystem, account: Account) -> None:
        self._system = system
        self.account = account
        self.clock = Clock()
        self.rng = random.Random()  # noqa: S311 - of waits
        self.limiter = RateLimiter(None, None, self.clock)
        self._client: Any = None
        self._lock = threading.Lock()
        self._auth_lock = threading.Lock()
        self._authenticated = False
        self._has_answered = False
        self._denied_in_a_row = 0
        self._scopes: set[CallScope] = set()
        self._metered = MeteredRequests()
        self._concurrency = threading.BoundedSemaphore(account.max_concurrency)

    # --- what a protocol says -------------------------------------------------------------------

    @abstractmethod
    def connect(self) -> Any:
        """The SDK's client, with its own retries off."""

    @abstractmethod
    def send(self, request: ProviderRequest) -> ProviderResponse | ProviderError:
        """Send one request, once. What it raises is given to `map_error`."""

    @abstractmethod
    def map_error(self, error: Exception) -> ProviderError:
        """What an exception of the SDK means; raises one that it does not know."""

    @property
    def deadline(self) -> float:
        """Seconds in which an answer has to be there as a whole."""
        return TIMEOUTS * self.account.timeout

    def exchange(self, call: Callable[[], Answer]) -> Answer:
        """What a call of the SDK, one request and its answer, returns or raises. Raises AnswerTooSlow."""
        return within(self.deadline, call)

    def form(self, request: ProviderRequest) -> ReplyForm:
        """The form that the provider is to hold the reply to."""
        return request.prompt.reply_form if self._system.enforce_reply_form else FreeText()

    def encode_media(self, request: VisionRequest) -> tuple[EncodedImage, ...]:
        """The image or the frames as they are sent."""
        media = request.media
        images = (media.pixels,) if isinstance(media, DecodedImage) else media.frames
        return tuple(encode_image(image, self._system.shown_size(media)) for image in images)

    def media_tokens(self, request: ProviderRequest) -> int:
        """About how many tokens the media of a request count."""
        return sum(self._system.image_tokens((image.width, image.height)) for image in request.images)

    def most_reply_tokens(self, request: ProviderRequest) -> int:
        """How many tokens a provider is told that it may reply with, reasoning included."""
        return request.prompt.max_new_tokens

    @abstractmethod
    def sent_settings(self) -> dict[str, Any]:
        """The settings, besides account and prompt, that a request is sent with."""

    # --- the engine -----------------------------------------------------------------------------

    is_metered = True

    @property
    def is_remote(self) -> bool:
        return True

    @property
    def max_calls(self) -> None:
        return None

    @property
    def preferred_objects(self) -> int:
        return max(LEAST_OBJECTS, 2 * self.account.max_concurrency)

    def load(self) -> None:
        with self._lock:
            if self._client is not None:
                return
            available = self.availability()
            if not available.usable:
                raise ModelError(available.refusal(self._system.system))
            account = self.account
            self.limiter = RateLimiter(
                account.requests_per_minute, account.tokens_per_minute, self.clock, account.longest_wait
            )
            self._client = self.connect()

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Output]:
        self.load()
        scope = CallScope()
        with self._lock:
            self._scopes.add(scope)
        workers = max(1, min(len(requests), self.account.max_concurrency))
        pool = ThreadPoolExecutor(workers, self._system.system)
        try:
            records = send_in_turn(pool, lambda each: self._request_with_repair(each, scope), requests, workers)
        finally:
            scope.stop.set()  # an interrupt ends the waiting threads too
            pool.shutdown()
            with self._lock:
                self._scopes.discard(scope)
        outputs = [record.output for record in records]
        if scope.error or None in outputs:  # the meter gives no holds any more: the run that it counts for has ended
            why = scope.error or f"{self._system.system} was not asked any further: the run has ended"
            raise (OverBudget if scope.over_budget else Incomplete)(why, outputs)
        return [output for output in outputs if output is not None]

    def _request_with_repair(self, each: GenerationRequest, scope: CallScope) -> CallRecord:
        """Send one prompt, and once more if the reply cannot be read. Never raises."""
        record = CallRecord()
        if scope.stop.is_set():
            return record
        try:
            request = ProviderRequest(each.request, each.prompt, self.encode_media(each.request))
            given = None if each.unreadable is None else Generated(each.unreadable)
            record.outcome = given or self._request(request, record, scope)
            if isinstance(record.outcome, Generated) and (wrong := self._format_error(request, record.outcome)):
                complaint = f"That cannot be read: {wrong}. Answer again in exactly the form that was asked for."
                reply = given.text if given else record.transcript[-1]
                again = replace(request, correction=(reply[:_LONGEST_QUOTED], complaint))
                record.outcome = self._request(again, record, scope)
        except ReplyError as error:
            record.outcome = Failure(error.cause, str(error))
        except Exception as error:  # one item's misfortune is nobody else's; the SDK's frames may hold the key
            message = self.redact(f"{type(error).__name__}: {error}")
            _logger.warning("%s: a request about %s failed here: %s", self._system.system, each.request.uri, message)
            record.outcome = Failure(Cause.MODEL, message)
        return record

    def _format_error(self, request: ProviderRequest, generated: Generated) -> str | None:
        """What is wrong with the form of a reply, if it had one to keep. A box that lies outside the image is
        a wrong answer in the right form, and the model is not asked to mend it.
        """
        free = request.request.enrichment.capability.gives_text and isinstance(request.prompt.reply_form, FreeText)
        if generated.truncated or free:
            return None
        try:
            self._system.parse(request.request, request.prompt, generated.text)
        except ReplyError as error:
            return str(error) if error.cause is Cause.MALFORMED else None
        except Exception:  # a bug of the parser: the model's loop, which parses the reply again, logs it
            return None
        return None

    def _request(self, request: ProviderRequest, record: CallRecord, scope: CallScope) -> Generated | Failure | None:
        """Send a request until it is answered, declined for good, or out of tries; None if the run was stopped before,
        or by it.
        """
        for attempt in range(1, self.account.max_attempts + 1):
            with self._concurrency:
                answer = self._send_guarded(request, scope)
            if answer is None or (isinstance(answer, ProviderError) and answer.fatal):
                return None
            record.attempts += 1
            if isinstance(answer, ProviderResponse):
                return self.recorded(answer, record)
            wait = answer.requested_wait(self.clock.epoch())
            given_up = attempt == self.account.max_attempts or (wait or 0) > self.account.longest_wait
            if given_up or not answer.retryable:
                status = f"HTTP {answer.status}" if answer.status else "no answer"
                message = f"{self.account.vendor}: {status} at try {record.attempts}: {self.redact(answer.message)}"
                return Failure(answer.as_cause, message + (f"; it asks to wait {wait:.0f} s" if wait else ""))
            if wait is not None:
                self.limiter.pause(wait)
            self.clock.wait(answer.backoff(attempt, wait, self.rng), scope.stop)
        return None

    def _send_guarded(self, request: ProviderRequest, scope: CallScope) -> ProviderResponse | ProviderError | None:
        """Send once. Until a key has been accepted requests go one by one, so that a bad one is used once."""
        if not self._authenticated:
            with self._auth_lock:
                if not self._authenticated:
                    return self._send_limited(request, scope)
        return self._send_limited(request, scope)

    def _send_limited(self, request: ProviderRequest, scope: CallScope) -> ProviderResponse | ProviderError | None:
        """Send once, within the limits; None if the run was stopped before it could."""
        if (known := self._metered.answered(self, request, scope)) is not None:
            return known
        tokens = self.media_tokens(request) + text_tokens(request.prompt.text)
        estimate = tokens + self._system.expected_reply_tokens(request.request.enrichment)
        reservation = self.limiter.acquire(estimate, scope.stop)
        if reservation is None:
            return None
        answer = self._metered.send(self, request, scope)
        if answer is None:
            return None
        answer = self._about_one_request(answer)
        self.limiter.update_from_headers(answer.headers)
        if isinstance(answer, ProviderResponse) and answer.input_tokens:
            self.limiter.reconcile(reservation, answer.input_tokens + answer.output_tokens)
        if isinstance(answer, ProviderError) and answer.fatal:
            self._stop(answer)
        else:
            self._authenticated = True
        return answer

    def _about_one_request(self, answer: ProviderResponse | ProviderError) -> ProviderResponse | ProviderError:
        """The answer; a 403 between others is made the failure of its request."""
        with self._lock:
            if isinstance(answer, ProviderResponse):
                self._has_answered, self._denied_in_a_row = True, 0
            elif answer.status == 403 and answer.fatal and not answer.fatal_reason and self._has_answered:
                self._denied_in_a_row += 1
                if self._denied_in_a_row < _MOST_DENIED:
                    return replace(answer, cause=Cause.MODEL)
        return answer

    def mapped(self, error: Exception) -> ProviderError:
        """What an exception means. Its traceback and its request, which hold the key, end here."""
        if (bound := broken_bound(error)) is not None:
            cause = Cause.MALFORMED if isinstance(bound, AnswerTooLarge) else None
            return ProviderError(None, str(bound), cause=cause)
        if is_untrusted(error):
            why = f"{self.account.base_url or self.account.vendor} shows a certificate that is not trusted here"
            return ProviderError(None, why, fatal_reason=f"{why}; {TRUST}")
        try:
            return self.map_error(error)
        except Exception as unknown:  # an SDK that trips over a strange reply raises anything
            message = f"the answer could not be taken apart: {type(unknown).__name__}: {unknown}"
            _logger.warning("%s: %s", self._system.system, self.redact(message))
            return ProviderError(None, message, cause=Cause.MALFORMED)

    def recorded(
        self, answer: ProviderResponse, record: CallRecord, in_batch: bool = False, sent_at: datetime | None = None
    ) -> Generated | Failure:
        """What an answer says; what it cost, and its text, are put down in `record`."""
        record.usage += replace(answer.usage, cost_usd=self.account.rates.cost(answer.usage, in_batch, sent_at))
        record.served_id = answer.served_id or record.served_id
        if answer.text:
            record.transcript.append(answer.text)
        if answer.cause is not None:
            return Failure(answer.cause, self.redact(answer.why))
        return Generated(answer.text, truncated=answer.truncated)

    def batch_most(self, request: ProviderRequest) -> float:
        """What a request may cost at most in a batch, US dollars."""
        return self._metered.most(self, request, in_batch=True)

    def batch_cost(self, answer: ProviderResponse | ProviderError, sent_at: datetime | None) -> float | None:
        """What an answer of a batch cost, US dollars; None if nobody knows."""
        return answer_cost(self.account.rates, answer, in_batch=True, sent_at=sent_at)

    def _stop(self, answer: ProviderError) -> None:
        """End every call of this engine: what was declined concerns each of their items."""
        account = self.account
        why = stop_reason(
            answer, self.redact(answer.message), account.model_id, account.successor, account.key_variables
        )
        with self._lock:
            for scope in self._scopes:
                scope.error = scope.error or f"{self._system.system}: {why}"
                scope.stop.set()

    def redact(self, message: str) -> str:
        """What a provider said, short, on one line and without the key."""
        key = self.account.key.get_secret_value()
        hidden = redact(message.replace(key, HIDDEN) if key else message)
        return " ".join(hidden.split())[:400]
