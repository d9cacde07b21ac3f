"""What the hosted systems share: requests in flight, retries, limits, one repair of a bad reply."""

from __future__ import annotations

import math
import random
import threading
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from sightflow.blocks.models.engines.providers.image_encoding import EncodedImage, Size, encode_image, fit_within
from sightflow.blocks.models.engines.providers.messages import (
    CallRecord,
    CallScope,
    ProviderError,
    ProviderRequest,
    ProviderResponse,
    bare_choice,
    reason_to_stop,
)
from sightflow.blocks.models.engines.providers.rate_limits import Clock, RateLimiter
from sightflow.blocks.models.hosted_account import HostedAccount
from sightflow.blocks.models.model_profiles import expected_tokens, of_id, text_tokens
from sightflow.blocks.models.replies.frame_regions import attach_frames
from sightflow.blocks.models.replies.json_regions import ReadMask, read_regions
from sightflow.blocks.models.vision_model import Generated, Prompt, ReplyError, plain_text
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment, Result
from sightflow.schemas.failure import Cause, Failure, ModelError
from sightflow.schemas.geometry import BoxFormat
from sightflow.schemas.media import DecodedImage, DecodedVideo, Media
from sightflow.schemas.vision import Usage, VisionReply, VisionRequest

_TYPICAL_IMAGE = (1920, 1080)


class HostedVisionModel(HostedAccount):
    """A model behind a vendor's API. Media leave the machine, and every request costs money.

    Tries, waits and limits are kept here and nowhere else: the SDKs' own retries are off.
    """

    hosted: ClassVar[bool] = True
    media_kinds = frozenset(MediaKind)
    box_keys: ClassVar[tuple[str, ...]]
    """What a box is called in the JSON that is asked for."""

    timeout: float = Field(default=120.0, gt=0, description="Seconds without a byte until a try is given up.")
    max_concurrency: int = Field(default=8, ge=1, le=256, description="Most requests in flight.")
    max_attempts: int = Field(default=6, ge=1, le=20, description="Tries of one request before it counts as failed.")
    longest_wait: float = Field(default=120.0, gt=0, description="Seconds; told to wait longer, a request fails.")
    max_new_tokens: int = Field(default=4096, ge=1, description="Longest reply, in tokens.")
    frame_side: int = Field(default=512, ge=64, le=2048, description="Longest side of a video's frames, in pixels.")

    _client: Any = PrivateAttr(default=None)
    _limiter: RateLimiter = PrivateAttr()
    _concurrency: threading.BoundedSemaphore = PrivateAttr()
    _key_is_good: bool = PrivateAttr(default=False)
    _runs: set[CallScope] = PrivateAttr(default_factory=set)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _auth_lock: Any = PrivateAttr(default_factory=threading.Lock)
    _clock: Clock = PrivateAttr(default_factory=Clock)
    _rng: random.Random = PrivateAttr(default_factory=random.Random)

    # --- what a subclass says -------------------------------------------------------------------

    @abstractmethod
    def connect(self, key: str) -> Any:
        """The SDK's client, with its own retries off."""

    @abstractmethod
    def send(self, question: ProviderRequest) -> ProviderResponse | ProviderError:
        """Send one request, once. What it raises is given to `map_error`."""

    @abstractmethod
    def map_error(self, error: Exception) -> ProviderError:
        """What an exception of the SDK means; raises one that it does not know."""

    @abstractmethod
    def sent_size(self, size: Size) -> Size:
        """The size at which a picture of this size is sent: no larger than the vendor will use."""

    @abstractmethod
    def image_tokens(self, size: Size) -> int:
        """How many tokens the vendor counts for a picture of this size."""

    def shown_size(self, media: Media) -> Size:
        """The size at which an image or a video's frame is sent."""
        if isinstance(media, DecodedImage):
            return self.sent_size(media.pixels.size)
        return self.sent_size(fit_within(media.frames[0].size, self.frame_side))

    def images(self, request: VisionRequest) -> tuple[EncodedImage, ...]:
        """The image or the frames as they are sent."""
        media = request.media
        seen = (media.pixels,) if isinstance(media, DecodedImage) else media.frames
        return tuple(encode_image(image, self.shown_size(media)) for image in seen)

    def media_tokens(self, question: ProviderRequest) -> int:
        """About how many tokens the media of a question count."""
        return sum(self.image_tokens((image.width, image.height)) for image in question.images)

    @property
    def space(self) -> BoxFormat:
        """The coordinates that the configured model speaks in."""
        return self.box_format

    @property
    def mask_reader(self) -> ReadMask | None:
        """How a mask that comes as a string is read; None if they come as polygons only."""
        return None

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        enrichment, media = request.enrichment, request.media
        if enrichment.capability.gives_text:
            return plain_text(bare_choice(text) if prompt.choices else text, prompt.choices)
        regions = read_regions(
            text, enrichment, self.space, self.image_transform(request), self.box_keys, self.mask_reader
        )
        return attach_frames(text, regions, enrichment, media) if isinstance(media, DecodedVideo) else regions

    # --- what it costs, how it is best asked ----------------------------------------------------

    def price_per_item(self, enrichment: Enrichment, media_kind: MediaKind) -> float:
        """The price of one item of 1920 x 1080 pixels, a video of a minute, with a reply of usual length."""
        prompts, size, images, times = self.prompts(enrichment, media_kind), _TYPICAL_IMAGE, 1, 1
        if media_kind is MediaKind.VIDEO:
            sampling, size = self.sampling(enrichment), fit_within(size, self.frame_side)
            images = sampling.frames or math.ceil(60 * (sampling.fps or 0.5))
            times = math.ceil(images / sampling.max_frames)
            if times > 1 and enrichment.capability.gives_text:  # and an overview, for the answer as a whole
                images, times = images + sampling.max_frames, times + 1
        asked = sum(images * self.image_tokens(size) + times * text_tokens(prompt.text) for prompt in prompts)
        return self._cost(asked, times * len(prompts) * self._reply_tokens(enrichment))

    def generation_settings(self) -> dict[str, Any]:
        return super().generation_settings() | {"frame_side": self.frame_side}

    @property
    def longest_frame_side(self) -> int:
        return self.frame_side

    @property
    def objects_at_once(self) -> int:
        return max(16, 2 * self.max_concurrency)

    def prepare(self) -> None:
        with self._lock:
            if self._client is not None:
                return
            available = self.availability()
            if not available.usable:
                raise ModelError(f"{self.system}: {available.why}; {available.remedy}")
            self._limiter = RateLimiter(
                self.requests_per_minute or self.profile.requests_per_minute,
                self.tokens_per_minute or self.profile.tokens_per_minute,
                self._clock,
            )
            self._concurrency = threading.BoundedSemaphore(self.max_concurrency)
            self._client = self.connect(self._key())

    def _reply_tokens(self, enrichment: Enrichment) -> int:
        return expected_tokens(enrichment) + self.profile.thinking_tokens // 4

    # --- the loop -------------------------------------------------------------------------------

    def run(self, requests: Sequence[VisionRequest]) -> list[VisionReply]:
        self.prepare()
        asked = [self.prompts(request.enrichment, request.media.kind) for request in requests]
        effective_prompts = [ProviderRequest(r, p) for r, prompts in zip(requests, asked, strict=True) for p in prompts]
        run = CallScope()
        with self._lock:
            self._runs.add(run)
        pool = ThreadPoolExecutor(max(1, min(len(effective_prompts), self.max_concurrency)), self.system)
        try:
            said = list(pool.map(lambda question: self._request_with_repair(question, run), effective_prompts))
        finally:
            run.stop.set()  # an interrupt ends the waiting threads too
            pool.shutdown()
            with self._lock:
                self._runs.discard(run)
        if run.error:
            raise ModelError(run.error)
        answers = iter(said)
        return [self._gathered(r, [(p, next(answers)) for p in ps]) for r, ps in zip(requests, asked, strict=True)]

    def _gathered(self, request: VisionRequest, said: Sequence[tuple[Prompt, CallRecord]]) -> VisionReply:
        """One reply, with all that was said and spent on it, also by what failed."""
        exchanges = [exchange for _, exchange in said]
        reply = self.reply(request, [(prompt, exchange.outcome) for prompt, exchange in said])
        raw = "\n".join(text for exchange in exchanges for text in exchange.raw) or None
        outcome = reply.outcome
        if isinstance(outcome, Failure):
            outcome = replace(outcome, attempts=max(e.attempts for e in exchanges), raw_reply=raw)
        served = next((e.served_id for e in exchanges if e.served_id), reply.model_id)
        usage = sum((e.usage for e in exchanges), Usage())
        return replace(reply, outcome=outcome, raw_reply=raw, usage=usage, model_id=served)

    def _request_with_repair(self, question: ProviderRequest, run: CallScope) -> CallRecord:
        """Put one question, and once more if the reply cannot be read. Never raises."""
        exchange = CallRecord(Failure(Cause.MODEL, "the run was stopped before it was asked"))
        if run.stop.is_set():
            return exchange
        try:
            question = replace(question, images=self.images(question.request))
            exchange.outcome = self._ask(question, exchange, run)
            if isinstance(exchange.outcome, Generated) and (
                complaint := self._format_error(question, exchange.outcome)
            ):
                as_text = f"That cannot be read: {complaint}. Answer again in exactly the form that was asked for."
                again = replace(question, correction=(exchange.outcome.text[:4000], as_text))
                exchange.outcome = self._ask(again, exchange, run)
        except ReplyError as error:
            exchange.outcome = Failure(error.cause, str(error))
        except Exception as error:  # one item's misfortune is nobody else's
            exchange.outcome = Failure(Cause.MODEL, self._redacted(f"{type(error).__name__}: {error}"))
        return exchange

    def _format_error(self, question: ProviderRequest, generated: Generated) -> str | None:
        """What is wrong with the form of a reply, if it had one to keep. A box that lies outside the picture is
        a wrong answer in the right form, and the model is not asked to mend it.
        """
        if generated.truncated or (question.request.enrichment.capability.gives_text and not question.prompt.choices):
            return None
        try:
            self.parse(question.request, question.prompt, generated.text)
        except ReplyError as error:
            return str(error) if error.cause is Cause.MALFORMED else None
        except Exception:
            return None  # `reply` tells it
        return None

    def _ask(self, question: ProviderRequest, exchange: CallRecord, run: CallScope) -> Generated | Failure:
        """Send a question until it is answered, declined for good, or out of tries."""
        for attempt in range(1, self.max_attempts + 1):
            with self._concurrency:
                answer = self._send_guarded(question, run)
            if answer is None:
                break
            exchange.attempts += 1
            if isinstance(answer, ProviderResponse):
                return self._recorded(answer, exchange)
            asked = answer.asked_wait(self._clock.epoch())
            given_up = attempt == self.max_attempts or (asked or 0) > self.longest_wait
            if given_up or not answer.retryable:
                status = f"HTTP {answer.status}" if answer.status else "no answer"
                told = f"{self.vendor}: {status} at try {exchange.attempts}: {self._redacted(answer.message)}"
                return Failure(answer.as_cause, told + (f"; it asks to wait {asked:.0f} s" if asked else ""))
            if asked is not None:
                self._limiter.pause(asked)
            self._clock.wait(answer.wait(attempt, asked, self._rng), run.stop)
        return Failure(Cause.MODEL, "the run was stopped before it was asked")

    def _send_guarded(self, question: ProviderRequest, run: CallScope) -> ProviderResponse | ProviderError | None:
        """Send once. Until a key has been accepted requests go one by one, so that a bad one is used once."""
        if not self._key_is_good:
            with self._auth_lock:
                if not self._key_is_good:
                    return self._send(question, run)
        return self._send(question, run)

    def _send(self, question: ProviderRequest, run: CallScope) -> ProviderResponse | ProviderError | None:
        """Send once, within the limits; None if the run was stopped before it could."""
        asked = self.media_tokens(question) + text_tokens(question.prompt.text)
        estimate = asked + self._reply_tokens(question.request.enrichment)
        reservation = self._limiter.acquire(estimate, run.stop)
        if reservation is None:
            return None
        try:
            answer = self.send(question)
        except Exception as error:
            answer = self._understood(error)
        self._limiter.update_from_headers(answer.headers)
        if isinstance(answer, ProviderResponse) and answer.input_tokens:
            self._limiter.reconcile(reservation, answer.input_tokens + answer.output_tokens)
        if isinstance(answer, ProviderError) and answer.fatal:
            self._stop(answer)
        else:
            self._key_is_good = True
        return answer

    def _understood(self, error: Exception) -> ProviderError:
        """What an exception means. Its traceback and its request, which hold the key, end here."""
        try:
            return self.map_error(error)
        except Exception as unknown:  # an SDK that trips over a strange reply raises anything
            message = f"the answer could not be taken apart: {type(unknown).__name__}: {unknown}"
            return ProviderError(None, message, cause=Cause.MALFORMED)

    def _recorded(self, answer: ProviderResponse, exchange: CallRecord) -> Generated | Failure:
        cost = self._cost(answer.input_tokens, answer.output_tokens)
        exchange.usage += Usage(answer.input_tokens, answer.output_tokens, cost)
        exchange.served_id = answer.served_id or exchange.served_id
        if answer.text:
            exchange.raw.append(answer.text)
        if answer.cause is not None:
            return Failure(answer.cause, self._redacted(answer.why))
        return Generated(answer.text, truncated=answer.truncated)

    def _stop(self, answer: ProviderError) -> None:
        """End every run of this model: what was declined concerns each of their items."""
        successor = of_id(self.retired, self.ref.id) or self.profile.successor or self.default.id
        why = reason_to_stop(answer, self._redacted(answer.message), self.ref.id, successor, self.key_variables)
        with self._lock:
            for run in self._runs:
                run.error = run.error or f"{self.system}: {why}"
                run.stop.set()
