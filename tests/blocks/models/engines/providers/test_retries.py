"""What passes is tried again, over real HTTP: how often, after which waits, and by whom."""

import random
from email.utils import formatdate

from sightflow.schemas.enrichment import TextResult
from sightflow.schemas.failure import Cause
from tests.blocks.models.engines.providers.test_failures import EACH, GOOD, run
from tests.loopback.hosted_systems import (
    CAPTION,
    GEMINI,
    request,
)
from tests.loopback.server import Body, CutBody, HangUp, Stall, Status, in_turn
from tests.loopback.virtual_clock import EPOCH


@EACH
def test_a_passing_trouble_is_tried_again(system) -> None:
    troubles = [Status(status) for status in (408, 409, 429, 500, 502, 503, 504, 529)]
    reply, provider, _ = run(system, *troubles, GOOD, max_attempts=9)
    assert reply.outcome == TextResult("all is well")
    assert len(provider.received) == 9


@EACH
def test_a_broken_answer_is_tried_again(system) -> None:
    reply, provider, _ = run(system, CutBody(), Body(b"{not json"), Body(b""), Body(b"<html>", "text/html"), GOOD)
    assert reply.outcome == TextResult("all is well")
    assert len(provider.received) == 5


@EACH
def test_a_stalled_answer_times_out_and_is_tried_again(system) -> None:
    reply, provider, _ = run(system, Stall(), GOOD, timeout=0.5)
    assert reply.outcome == TextResult("all is well")
    assert len(provider.received) >= 2


@EACH
def test_an_endpoint_that_is_not_there_is_a_model_failure_after_the_tries(system) -> None:
    with system.on_loopback(in_turn(GOOD)) as provider:
        url = provider.url
    model = system.connect(provider, base_url=url, max_attempts=3)
    (reply,) = model.run([request(CAPTION)])
    assert reply.failure.cause is Cause.MODEL
    assert reply.failure.attempts == 3
    assert len(model.open_engine().clock.waits) == 2


@EACH
def test_a_bad_request_is_not_tried_again(system) -> None:
    statuses = (400, 405, 413, 422)
    with system.on_loopback(
        in_turn(*(Status(status, message="the picture is odd") for status in statuses))
    ) as provider:
        model = system.connect(provider, max_concurrency=1)
        replies = model.run([request(CAPTION)] * 4)
    for status, reply in zip(statuses, replies, strict=True):
        assert reply.failure.cause is (Cause.TOO_LARGE if status == 413 else Cause.MODEL)
        assert f"HTTP {status} at try 1: " in reply.failure.message
        assert "the picture is odd" in reply.failure.message
    assert len(provider.received) == 4
    assert model.open_engine().clock.waits == []


@EACH
def test_tries_end_and_the_cause_is_kept(system) -> None:
    limited, provider, _ = run(system, Status(429, message="slow down"), max_attempts=4)
    assert limited.failure.cause is Cause.RATE_LIMITED
    assert limited.failure.attempts == len(provider.received) == 4
    assert "slow down" in limited.failure.message
    broken, provider, _ = run(system, Status(503), max_attempts=3)
    assert broken.failure.cause is Cause.MODEL
    assert len(provider.received) == 3


@EACH
def test_waits_are_full_jitter_within_doubling_bounds(system) -> None:
    with system.on_loopback(in_turn(Status(503))) as provider:
        model = system.connect(provider, max_attempts=7, max_concurrency=1)
        model.open_engine().rng = random.Random(5)
        model.run([request(CAPTION)] * 3)
    rounds = [model.open_engine().clock.waits[k : k + 6] for k in (0, 6, 12)]
    for waits in rounds:
        assert all(0 <= wait <= bound for wait, bound in zip(waits, (1, 2, 4, 8, 16, 32), strict=True))
    assert len({tuple(waits) for waits in rounds}) == 3


@EACH
def test_retry_after_is_honoured(system) -> None:
    asked = ({"Retry-After": "17"}, {"retry-after-ms": "27000"}, {"Retry-After": formatdate(EPOCH + 100, usegmt=True)})
    reply, _, model = run(system, *(Status(429, headers=headers) for headers in asked), GOOD)
    assert isinstance(reply.outcome, TextResult)
    seconds, milliseconds, _ = model.open_engine().clock.waits
    assert 17 <= seconds <= 18
    assert 27 <= milliseconds <= 28
    assert 100 <= model.open_engine().clock.now <= 101


def test_geminis_retry_info_is_honoured() -> None:
    body = {
        "error": {
            "code": 429,
            "message": "quota",
            "status": "RESOURCE_EXHAUSTED",
            "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "23.5s"}],
        }
    }
    with GEMINI.on_loopback(in_turn(Status(429), GOOD)) as provider:
        provider.error = lambda _: body
        model = GEMINI.connect(provider)
        model.run([request(CAPTION)])
    assert 23.5 <= model.open_engine().clock.waits[0] <= 24.5


@EACH
def test_told_to_wait_too_long_it_fails_at_once(system) -> None:
    reply, provider, model = run(system, Status(429, headers={"Retry-After": "4000"}), longest_wait=60)
    assert reply.failure.cause is Cause.RATE_LIMITED
    assert "4000 s" in reply.failure.message
    assert len(provider.received) == 1 and model.open_engine().clock.waits == []


@EACH
def test_retry_after_holds_the_other_requests_too(system) -> None:
    held = []
    with system.on_loopback(in_turn(Status(429, headers={"Retry-After": "30"}), Status(429), GOOD)) as provider:
        model = system.connect(provider)
        model.prepare()
        model.open_engine().limiter.pause = held.append
        model.run([request(CAPTION)])
    assert held == [30]


@EACH
def test_a_dropped_connection_is_tried_again_here_and_not_by_the_sdk(system) -> None:
    reply, provider, _ = run(system, HangUp(), GOOD)
    assert reply.outcome == TextResult("all is well")
    assert len(provider.received) == 2
    dropped, provider, _ = run(system, HangUp(), max_attempts=1)
    assert dropped.failure.cause is Cause.MODEL
    assert len(provider.received) == 1
