"""Each request that is sent: what it may cost is held before, and settled after."""

from __future__ import annotations

import json
import logging
import math
from datetime import datetime
from hashlib import sha256
from typing import Any, Protocol

from sightflow.blocks.models.contract import ReplyError
from sightflow.blocks.models.engines.providers.account import Account
from sightflow.blocks.models.engines.providers.messages import (
    CallScope,
    ProviderError,
    ProviderRequest,
    ProviderResponse,
)
from sightflow.blocks.models.reply_forms import FreeText, ReplyForm, described
from sightflow.schemas.failure import BudgetMet, Cause, RequestTooExpensive, SightflowError
from sightflow.schemas.media import DecodedVideo
from sightflow.schemas.money.rates import Rates

_logger = logging.getLogger(__name__)

_PROMPT_OVERHEAD = 64
"""Tokens, of roles and turns."""
_MEDIA_MARGIN = 1.25
"""By how much a provider may count more tokens than its rule says. Raised by the first answer that says more."""
_MAYBE_RUN = frozenset({408, 499, 504, 524})
"""What a gateway, or Azure, says that no longer waits: the model behind it may have been run."""
_NEVER_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "NoConnection"})
"""Exceptions of httpx and of `dashscope_session` by which no connection was there that anything could be sent on."""


class PaidEngine(Protocol):
    """What is asked of an engine: the methods of `ProviderEngine` of these names."""

    @property
    def account(self) -> Account: ...
    def send(self, request: ProviderRequest) -> ProviderResponse | ProviderError: ...
    def mapped(self, error: Exception) -> ProviderError: ...
    def form(self, request: ProviderRequest) -> ReplyForm: ...
    def media_tokens(self, request: ProviderRequest) -> int: ...
    def most_reply_tokens(self, request: ProviderRequest) -> int: ...
    def sent_settings(self) -> dict[str, Any]: ...


class MeteredRequests:
    """Sends the requests of one engine, each once, under whatever meter their call has."""

    def __init__(self) -> None:
        self._margin, self._reply_margin = _MEDIA_MARGIN, 1.0

    def answered(self, engine: PaidEngine, request: ProviderRequest, scope: CallScope) -> ProviderResponse | None:
        """What a process that died was answered to exactly this."""
        found = scope.meter.answered(request_key(engine, request)) if scope.meter else None
        if found is None:
            return None
        try:
            cause = Cause(found["cause"]) if found["cause"] else None
            return ProviderResponse(**{**found, "cause": cause})
        except (TypeError, ValueError, KeyError):  # of another version of this program
            return None

    def send(
        self, engine: PaidEngine, request: ProviderRequest, scope: CallScope
    ) -> ProviderResponse | ProviderError | None:
        """Send a request once; None if the call was stopped before it could be, or by the budget.

        Raises ReplyError for a request that no budget of this size would ever allow.
        """
        most = self.most(engine, request) if scope.meter else 0.0
        if scope.meter is None or not most:
            return self._sent(engine, request)[0]
        try:
            hold = scope.meter.reserve(most, scope.stop)
        except RequestTooExpensive as error:
            raise ReplyError(str(error), Cause.BUDGET) from None
        except SightflowError as error:  # the budget is met, or the ledger cannot be kept: nothing more is sent
            scope.over_budget = scope.over_budget or isinstance(error, BudgetMet)
            scope.error = scope.error or str(error)
            scope.stop.set()
            return None
        if hold is None:
            return None
        usd: float | None = None
        kept: dict[str, Any] | None = None
        try:
            answer, was_sent = self._sent(engine, request)
            usd = answer_cost(engine.account.rates, answer) if was_sent else 0.0
            if isinstance(answer, ProviderResponse):
                self._learn(engine, request, answer)
                kept = {name: value for name, value in vars(answer).items() if name != "headers"}
            return answer
        finally:
            scope.meter.settle(hold, usd, request_key(engine, request), kept)

    def _sent(self, engine: PaidEngine, request: ProviderRequest) -> tuple[ProviderResponse | ProviderError, bool]:
        """The answer, and whether anything can have been sent at all."""
        try:
            return engine.send(request), True
        except Exception as error:  # every SDK has its own; what it means is the protocol's to say
            return engine.mapped(error), not (isinstance(error, ReplyError) or was_never_sent(error))

    def most(self, engine: PaidEngine, request: ProviderRequest, in_batch: bool = False) -> float:
        """What one request may cost at most, US dollars; `in_batch`: of a batch, which takes a day at most."""
        reply = math.ceil(self._reply_margin * engine.most_reply_tokens(request))
        return engine.account.rates.bound(self._most_input(engine, request), reply, in_batch)

    def _most_input(self, engine: PaidEngine, request: ProviderRequest) -> int:
        """A token is a byte or more of text; of media what the provider's rule says, and a margin."""
        form = engine.form(request)
        texts = [request.prompt.text, *(request.correction or ()), *(title for title, _ in request.shown)]
        texts.append("" if isinstance(form, FreeText) else described(form))
        text = sum(len(each.encode("utf-8", "surrogatepass")) for each in texts)
        return int(self._margin * engine.media_tokens(request)) + text + _PROMPT_OVERHEAD

    def _learn(self, engine: PaidEngine, request: ProviderRequest, answer: ProviderResponse) -> None:
        """Take later requests for larger, if this one was larger than it could be by what is known here."""
        if not answer.input_tokens:
            return
        most, media, reply = self._most_input(engine, request), engine.media_tokens(request), answer.output_tokens
        most_reply = engine.most_reply_tokens(request)
        if answer.input_tokens > most and media:
            self._margin += 1.1 * (answer.input_tokens - most) / media
        if reply > self._reply_margin * most_reply:
            self._reply_margin = 1.1 * reply / most_reply
        elif answer.input_tokens <= most:
            return
        _logger.warning(
            "%s counted %d tokens and %d of the reply, of at most %d and %d: the next requests are taken for larger",
            engine.account.model_id,
            answer.input_tokens,
            reply,
            most,
            most_reply,
        )


def answer_cost(
    rates: Rates, answer: ProviderResponse | ProviderError, in_batch: bool = False, sent_at: datetime | None = None
) -> float | None:
    """What an answer cost, US dollars; None if a provider may have run the model and does not say for how many tokens.

    `sent_at`: when the request was sent, by default now.
    """
    if isinstance(answer, ProviderError):
        return None if answer.status is None or answer.status in _MAYBE_RUN else 0.0
    if not answer.input_tokens or (answer.text and not answer.output_tokens):
        return None
    return rates.cost(answer.usage, in_batch, sent_at)


def request_key(engine: PaidEngine, request: ProviderRequest) -> str:
    """A digest of all that is sent, of whom it is about, and of whom is asked: equal for the same question alone."""
    media, account, prompt = request.request.media, engine.account, request.prompt
    asked = [
        account.vendor,
        account.base_url,
        account.model_id,
        account.deployment,
        engine.sent_settings(),
        request.request.uri,
        request.request.enrichment.name,
        prompt.text,
        prompt.max_new_tokens,
        described(engine.form(request)),
        request.correction,
        media.sha256,
        [title for title, _ in request.shown],
        list(media.seconds) if isinstance(media, DecodedVideo) else None,
    ]
    digest = sha256(json.dumps(asked, default=str).encode("utf-8", "surrogatepass"))
    for image in request.images:
        digest.update(sha256(image.data).digest())
    return digest.hexdigest()


def was_never_sent(error: BaseException | None) -> bool:
    """Whether an exception, or one that it came of, says that there was no connection."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, ConnectionRefusedError) or type(error).__name__ in _NEVER_SENT:
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
