"""What each request may cost is held before it is sent and settled after, whatever becomes of it."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from sightflow.blocks.models.contract import Incomplete
from sightflow.blocks.models.engines.providers.messages import ProviderRequest
from sightflow.blocks.models.engines.providers.metered import request_key
from sightflow.blocks.models.hosted_model import HostedModel
from sightflow.blocks.models.metering import METER, OverBudget
from sightflow.schemas.enrichment import TextResult
from sightflow.schemas.failure import BudgetMet, Cause, RequestTooExpensive
from tests.blocks.models.engines.providers.test_failures import EACH, GOOD
from tests.loopback.hosted_systems import CAPTION, CHOOSE, GPT, image_with_box, request
from tests.loopback.openai_api import OpenAIOnLoopback
from tests.loopback.server import Behaviour, HangUp, Received, Say, Stall, Status, in_turn


class Recorder:
    """A meter that allows so many requests, and remembers."""

    def __init__(self, allowed: int = 10**6, left: Mapping[str, Any] | None = None) -> None:
        self.allowed, self.left = allowed, left
        self.held: list[float] = []
        self.settled: list[float | None] = []
        self.answers: dict[str, Mapping[str, Any]] = {}
        self._lock = threading.Lock()

    def answered(self, key: str) -> Mapping[str, Any] | None:
        return (self.left or {}).get(key)

    def reserve(self, usd: float, stop: threading.Event) -> int | None:
        with self._lock:
            if len(self.held) >= self.allowed:
                raise BudgetMet("the budget of the day is met")
            self.held.append(usd)
            return len(self.held)

    def settle(self, hold: int, usd: float | None, key: str = "", answer: Mapping[str, Any] | None = None) -> None:
        with self._lock:
            self.settled.append(usd)
            if answer:
                self.answers[key] = answer


@contextmanager
def counting(meter: Any) -> Iterator[Any]:
    token = METER.set(meter)
    try:
        yield meter
    finally:
        METER.reset(token)


def paid(model: HostedModel, tokens: tuple[int, int]) -> float:
    assert model.rates is not None
    return (tokens[0] * model.rates.input + tokens[1] * model.rates.output) / 1e6


@EACH
def test_every_attempt_is_held_and_settled_by_what_became_of_it(system) -> None:
    meter = Recorder()
    with system.on_loopback(in_turn(Status(500), Status(429), HangUp(), GOOD)) as provider, counting(meter):
        model = system.connect(provider)
        (reply,) = model.run([request(CAPTION)])
    assert reply.outcome == TextResult("all is well")
    assert meter.settled[:3] == [0.0, 0.0, None], "declined: nothing; the line went dead: nobody knows"
    assert meter.settled[3] == pytest.approx(reply.usage.cost_usd)
    assert len(meter.held) == 4 and min(meter.held) > 0


@pytest.mark.parametrize("status", [408, 504])
def test_a_gateway_that_no_longer_waits_may_have_had_the_model_run(status: int) -> None:
    meter = Recorder()
    with GPT.on_loopback(in_turn(Status(status), GOOD)) as provider, counting(meter):
        GPT.connect(provider).run([request(CAPTION)])
    assert meter.settled[0] is None and meter.settled[1]


@pytest.mark.parametrize("price", [float("inf"), 1e300, -1, float("nan")])
def test_a_price_is_a_number_that_can_be_reckoned_with(price: float) -> None:
    with pytest.raises(ValueError, match="usd_per_million_output"):
        GPT.model(usd_per_million_input=1, usd_per_million_output=price)


@EACH
def test_the_repair_of_a_reply_is_another_request(system) -> None:
    meter = Recorder()
    behaviour = in_turn(Say("neither"), Say(system.choice("yes")))
    with system.on_loopback(behaviour) as provider, counting(meter):
        (reply,) = system.connect(provider).run([request(CHOOSE)])
    assert reply.outcome == TextResult("yes")
    assert len(meter.held) == len(meter.settled) == 2
    assert sum(usd for usd in meter.settled if usd) == pytest.approx(reply.usage.cost_usd)


@EACH
def test_an_answer_that_never_came_counts_and_a_connection_that_never_was_does_not(system) -> None:
    meter = Recorder()
    with system.on_loopback(in_turn(Stall())) as provider, counting(meter):
        system.connect(provider, timeout=0.3, max_attempts=1).run([request(CAPTION)])
        url = provider.url
    assert meter.settled == [None]
    with counting(Recorder()) as nobody:
        system.connect(provider, base_url=url, max_attempts=2).run([request(CAPTION)])
    assert nobody.settled == [0.0, 0.0]


@EACH
def test_a_provider_that_counts_more_than_its_rule_is_believed_from_then_on(system) -> None:
    meter = Recorder()
    with system.on_loopback(in_turn(GOOD)) as provider, counting(meter):
        provider.bill = lambda received, said: (50_000, 5)
        model = system.connect(provider, max_concurrency=1)
        model.run([request(CAPTION)] * 3)
    assert meter.held[0] < meter.settled[0]  # type: ignore[operator]
    assert all(held >= settled for held, settled in zip(meter.held[1:], meter.settled[1:], strict=True))  # type: ignore[operator]


@EACH
def test_a_budget_that_is_met_keeps_what_was_answered_and_says_so(system) -> None:
    with system.on_loopback(in_turn(GOOD)) as provider, counting(Recorder(allowed=5)):
        model = system.connect(provider, max_concurrency=2)
        with pytest.raises(Incomplete, match="the budget of the day is met") as stopped:
            model.run([request(CAPTION)] * 12)
    assert isinstance(stopped.value, OverBudget)
    assert sum(reply is not None for reply in stopped.value.done) == 5 == len(provider.received)
    with counting(Recorder(allowed=5)), system.on_loopback(in_turn(GOOD)) as other:  # and the engine is as it was
        assert system.connect(other).run([request(CAPTION)])[0].outcome == TextResult("all is well")


@EACH
def test_a_meter_that_gives_no_more_holds_ends_the_call_with_what_was_answered(system) -> None:
    class Ending(Recorder):
        def reserve(self, usd: float, stop: threading.Event) -> int | None:
            return super().reserve(usd, stop) if len(self.held) < 2 else None

    with (
        system.on_loopback(in_turn(GOOD)) as provider,
        counting(Ending()),
        pytest.raises(Incomplete, match="the run has ended") as stopped,
    ):
        system.connect(provider, max_concurrency=1).run([request(CAPTION)] * 4)
    assert [reply is not None for reply in stopped.value.done] == [True, True, False, False]


@EACH
def test_a_request_that_no_budget_would_allow_costs_its_neighbours_nothing(system) -> None:
    class Small(Recorder):
        def reserve(self, usd: float, stop: threading.Event) -> int | None:
            if len(self.held) == 1:
                self.held.append(usd)
                raise RequestTooExpensive("it may cost $2.00, which is more than policy.budget.run")
            return super().reserve(usd, stop)

    with system.on_loopback(in_turn(GOOD)) as provider, counting(Small()):
        replies = system.connect(provider, max_concurrency=1).run([request(CAPTION)] * 3)
    assert [reply.failure and reply.failure.cause for reply in replies] == [None, Cause.BUDGET, None]
    assert "more than policy.budget.run" in replies[1].failure.message


@EACH
def test_what_a_process_that_died_was_answered_is_not_asked_again(system) -> None:
    with system.on_loopback(in_turn(GOOD, Say("another"))) as provider:
        with counting(Recorder()) as before:
            (first,) = system.connect(provider).run([request(CAPTION)])
        with counting(Recorder(left=before.answers)) as after:
            (again,) = system.connect(provider).run([request(CAPTION)])
            assert after.held == [] and len(provider.received) == 1
            (other,) = system.connect(provider).run([request(CAPTION, uri="s3://b/y.png")])
    assert (again.outcome, again.usage, again.model_id) == (first.outcome, first.usage, first.model_id)
    assert other.outcome == TextResult("another"), "an answer is that of its own object"


@EACH
def test_what_is_free_is_not_counted(system) -> None:
    with system.on_loopback(in_turn(GOOD)) as provider, counting(Recorder(allowed=0)):
        free = {"usd_per_million_input": 0, "usd_per_million_output": 0}
        assert system.connect(provider, **free).run([request(CAPTION)])[0].failure is None


def test_a_key_is_that_of_all_that_is_sent() -> None:
    def key(enrichment: Any = CAPTION, uri: str = "s3://b/x.png", left: int = 10, **settings: Any) -> str:
        with GPT.on_loopback(in_turn(GOOD)) as provider:
            model = GPT.connect(provider, base_url="http://127.0.0.1:9/v1", **settings)
        engine = model.open_engine()
        asked = request(enrichment, image_with_box((64, 48), (left, 12, 30, 36)), uri)
        (prompt,) = model.prompts(enrichment, asked.media.kind)
        return request_key(engine, ProviderRequest(asked, prompt, engine.encode_media(asked)))  # type: ignore[attr-defined]

    others = [key(CHOOSE), key(uri="s3://b/y.png"), key(left=11), key(id="gpt-6-luna"), key(max_new_tokens=77)]
    others += [key(detail="low")]
    assert key() == key()
    assert len({key(), *others}) == 7


def held_bounds(behaviour: Behaviour, **settings: Any) -> tuple[list[float], list[Received], HostedModel]:
    meter = Recorder()
    with GPT.on_loopback(behaviour) as provider, counting(meter):
        model = GPT.connect(provider, max_concurrency=1, **settings)
        model.run([request(CAPTION)])
    return meter.held, provider.received, model


def test_a_bound_is_of_the_largest_reply_and_of_more_than_the_prompt_can_count() -> None:
    (held,), (received,), model = held_bounds(in_turn(GOOD), max_new_tokens=1000)
    text = sum(len(each.encode()) for each in received.texts)
    assert held >= paid(model, (255 + text, 1000))
    assert held <= paid(model, (2 * 255 + text + 100, 1000)), "and not of much more"


class Odd(OpenAIOnLoopback):
    """Says of the tokens what it is told to."""

    says: Mapping[str, Any] = {}

    def answer(self, request: Received, said: Say, input_tokens: int, output_tokens: int) -> Any:
        document = super().answer(request, said, input_tokens, output_tokens)
        document["usage"] = dict(self.says)
        return document


@pytest.mark.parametrize("made", [0, -5, None, 1e300, "many", 12.5, 10**12])
def test_a_reply_whose_tokens_nobody_says_counts_at_the_most_that_it_may_have_cost(made: Any) -> None:
    meter = Recorder()
    with Odd(in_turn(GOOD)) as provider, counting(meter):
        provider.says = {"prompt_tokens": 300, "completion_tokens": made, "total_tokens": 300}
        GPT.connect(provider).run([request(CAPTION)])
    assert meter.settled == [None]


def test_reasoning_that_stands_in_the_total_alone_is_paid() -> None:
    """As at xAI (https://docs.x.ai/docs/guides/reasoning): the tokens of a reply are those without the reasoning."""
    meter = Recorder()
    with Odd(in_turn(GOOD)) as provider, counting(meter):
        provider.says = {"prompt_tokens": 300, "completion_tokens": 5, "total_tokens": 1005}
        model = GPT.connect(provider)
        (reply,) = model.run([request(CAPTION)])
    assert meter.settled == [pytest.approx(paid(model, (300, 705)))] == [pytest.approx(reply.usage.cost_usd)]
