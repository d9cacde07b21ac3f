"""What hosted models do wrong, over real HTTP, and is not mended by another try: told apart by its cause."""

import random
import threading
from collections import Counter

import pytest
from PIL import Image

from sightflow.schemas.enrichment import TextResult
from sightflow.schemas.failure import Cause, ModelError
from tests.loopback.hosted_systems import (
    CAPTION,
    CHOOSE,
    DETECT,
    GEMINI,
    GPT,
    KEY,
    QWEN,
    SYSTEMS,
    named,
    perfect,
    request,
)
from tests.loopback.server import Body, CutBody, Say, Status, in_turn

GOOD = Say("all is well")
EACH = pytest.mark.parametrize("system", SYSTEMS, ids=named)


def run(system, *reactions, enrichment=CAPTION, **settings):
    """One request to a provider that reacts so; the reply, the provider and the model."""
    with system.on_loopback(in_turn(*reactions)) as provider:
        model = system.connect(provider, **settings)
        (reply,) = model.run([request(enrichment)])
    return reply, provider, model


# --- told apart --------------------------------------------------------------------------------


@EACH
def test_a_refusal(system) -> None:
    said = Status(400, code="DataInspectionFailed") if system is QWEN else Say("I will not.", kind="refusal")
    reply, provider, _ = run(system, said)
    assert reply.failure.cause is Cause.REFUSED
    assert len(provider.received) == 1


@pytest.mark.parametrize("system", [GPT, GEMINI], ids=named)
def test_a_safety_block(system) -> None:
    reply, provider, _ = run(system, Say(kind="blocked"))
    assert reply.failure.cause is Cause.REFUSED
    assert len(provider.received) == 1


@EACH
@pytest.mark.parametrize("kind", ["empty", "no_choices"])
def test_an_empty_reply_is_malformed(system, kind) -> None:
    reply, provider, _ = run(system, Say(kind=kind))
    assert reply.failure.cause is Cause.MALFORMED
    assert len(provider.received) == 1
    assert reply.usage.input_tokens == provider.billed_tokens["input"]


@EACH
def test_a_reply_at_its_length_limit_is_truncated_and_not_parsed(system) -> None:
    reply, provider, _ = run(system, Say("[{", kind="truncated"), enrichment=DETECT, max_new_tokens=7)
    assert reply.failure.cause is Cause.TRUNCATED
    assert "7 tokens" in reply.failure.message
    assert reply.failure.raw_reply == reply.raw_reply == "[{"
    assert len(provider.received) == 1


@EACH
@pytest.mark.parametrize("enrichment", [DETECT, CHOOSE], ids=["regions", "choices"])
def test_an_unreadable_reply_is_asked_to_be_repaired_once(system, enrichment) -> None:
    def behave(received):
        return perfect(system)(received) if received.is_repair else Say("Well, let me see...")

    with system.on_loopback(behave) as provider:
        (reply,) = system.connect(provider).run([request(enrichment)])
    assert reply.failure is None
    first, second = provider.received
    assert second.texts[0] == first.texts[0]
    assert "Well, let me see..." in second.texts[1]
    assert len(second.images) == 1
    assert reply.raw_reply.startswith("Well, let me see...\n")
    assert reply.usage.input_tokens == provider.billed_tokens["input"]
    assert reply.usage.output_tokens == provider.billed_tokens["output"]


@EACH
def test_a_reply_that_stays_unreadable_is_malformed_with_both_replies_kept(system) -> None:
    reply, provider, _ = run(system, Say("no idea"), Say("still none"), enrichment=DETECT)
    assert reply.failure.cause is Cause.MALFORMED
    assert reply.failure.raw_reply == "no idea\nstill none"
    assert len(provider.received) == 2
    assert reply.failure.attempts == 2


@EACH
def test_a_box_outside_the_picture_is_not_mended(system) -> None:
    said = Say(system.regions([{"label": "box", **system.native((0, 0, 64, 900), (64, 48))}]))
    reply, provider, _ = run(system, said, enrichment=DETECT)
    assert reply.failure.cause is Cause.MALFORMED
    assert "outside" in reply.failure.message
    assert len(provider.received) == 1


# --- what ends the run -------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_stops_the_run_at_the_first_request(system, status) -> None:
    with system.on_loopback(in_turn(Status(status, message=f"no, {KEY}"))) as provider:
        model = system.connect(provider, max_concurrency=16)
        with pytest.raises(ModelError) as raised:
            model.run([request(CAPTION) for _ in range(200)])
    assert len(provider.received) == 1
    told = str(raised.value)
    assert told.startswith(f"{system.name}: ")
    assert KEY not in told
    assert {401: model.key_variables[0], 403: "may not use", 404: "check id and base_url"}[status] in told


@EACH
def test_a_403_between_answers_is_about_its_request_and_the_third_in_a_row_about_the_key(system) -> None:
    def behave(received):
        return Status(403, message="blocked by a firewall") if received.number in denied else GOOD

    denied = {7, 19, 20, 33}
    with system.on_loopback(behave) as provider:
        model = system.connect(provider, max_concurrency=1)
        replies = model.run([request(CAPTION) for _ in range(40)])
        failures = [reply.failure for reply in replies if reply.failure]
        assert [failure.cause for failure in failures] == [Cause.MODEL] * 4 and len(provider.received) == 40
        assert all("HTTP 403" in failure.message for failure in failures)
        denied |= set(range(50, 90))
        with pytest.raises(ModelError, match="may not use"):
            model.run([request(CAPTION) for _ in range(40)])
        assert len(provider.received) == 53


@EACH
def test_a_key_revoked_in_the_middle_stops_what_is_queued(system) -> None:
    revoked = threading.Event()

    def behave(received):
        if received.number >= 20:
            revoked.set()
        return Status(401) if revoked.is_set() else GOOD

    with system.on_loopback(behave) as provider:
        model = system.connect(provider, max_concurrency=4)
        with pytest.raises(ModelError, match="key was refused"):
            model.run([request(CAPTION) for _ in range(200)])
    assert len(provider.received) <= 20 + 4


def test_an_invalid_gemini_key_comes_as_400_and_stops_the_run() -> None:
    with GEMINI.on_loopback(in_turn(Status(400, code="API_KEY_INVALID", message="API key not valid."))) as provider:
        with pytest.raises(ModelError, match="GOOGLE_API_KEY"):
            GEMINI.connect(provider).run([request(CAPTION)] * 5)
        assert len(provider.received) == 1


@pytest.mark.parametrize(
    "system, declined",
    [
        (GPT, Status(429, code="insufficient_quota")),
        (QWEN, Status(400, code="Arrearage")),
        (GEMINI, Status(400, message="User location is not supported for the API use.")),
    ],
    ids=["no credit", "arrears", "place"],
)
def test_an_account_that_cannot_be_served_stops_the_run(system, declined) -> None:
    with system.on_loopback(in_turn(declined)) as provider:
        with pytest.raises(ModelError):
            system.connect(provider).run([request(CAPTION)] * 5)
        assert len(provider.received) == 1


@pytest.mark.parametrize(
    "system, gone, successor",
    [(GPT, "gpt-4o-2024-11-20", "gpt-6-luna"), (GEMINI, "gemini-2.5-flash", "gemini-3.8-flash")],
)
def test_an_id_that_the_provider_no_longer_serves_names_its_successor(system, gone, successor) -> None:
    with (
        system.on_loopback(in_turn(Status(404, message="no such model"))) as provider,
        pytest.raises(ModelError) as told,
    ):
        system.connect(provider, id=gone).run([request(CAPTION)])
    assert f"successor, {successor}" in str(told.value)


def test_a_model_that_dashscope_does_not_know_comes_as_400() -> None:
    declined = Status(400, code="InvalidParameter", message="Model not exist.")
    with QWEN.on_loopback(in_turn(declined)) as provider, pytest.raises(ModelError) as told:
        QWEN.connect(provider, id="qwen-vl-max").run([request(CAPTION)])
    assert "successor, qwen3.7-plus" in str(told.value)


def test_one_run_that_fails_does_not_poison_the_next() -> None:
    with GPT.on_loopback(in_turn(Status(401), GOOD)) as provider:
        model = GPT.connect(provider)
        with pytest.raises(ModelError):
            model.run([request(CAPTION)])
        (reply,) = model.run([request(CAPTION)])
    assert reply.outcome == TextResult("all is well")


# --- many at once ------------------------------------------------------------------------------


@EACH
def test_no_more_requests_are_in_flight_than_allowed_also_over_several_runs(system) -> None:
    gate = threading.Barrier(3, timeout=30)

    def behave(received):
        if 1 <= received.number <= 3:
            gate.wait()  # three at once, or this breaks
        return GOOD

    with system.on_loopback(behave) as provider:
        model = system.connect(provider, max_concurrency=3)
        threads = [threading.Thread(target=model.run, args=([request(CAPTION)] * 12,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(provider.received) == 36
    assert provider.most_in_flight == 3


@EACH
def test_with_one_in_ten_failing_every_item_is_answered_right_or_has_its_cause(system) -> None:
    count = 2_000 if system is GPT else 500
    chance, lock, seen, planned = random.Random(7), threading.Lock(), Counter(), {}
    causes = {"refusal": Cause.REFUSED, "truncated": Cause.TRUNCATED, "empty": Cause.MALFORMED}
    kinds = ["429", "500", "cut", "garbage", *(kind for kind in causes if not (system is QWEN and kind == "refusal"))]

    def behave(received):
        red, green, _ = received.images[0].getpixel((2, 2))
        item = red * 256 + green
        with lock:
            seen[item] += 1
            if item not in planned:
                planned[item] = chance.choice(kinds) if chance.random() < 0.1 else "fine"
            kind = planned[item] if seen[item] == 1 else "fine"
        match kind:
            case "429":
                return Status(429, headers={"Retry-After": "2"})
            case "500":
                return Status(500)
            case "cut":
                return CutBody()
            case "garbage":
                return Body(b"<html>")
        return Say(f"item {item}", kind="text" if kind == "fine" else kind)

    images = [Image.new("RGB", (16, 16), (n // 256, n % 256, 77)) for n in range(count)]
    with system.on_loopback(behave) as provider:
        model = system.connect(provider, max_concurrency=16)
        replies = model.run([request(CAPTION, image, f"s3://b/{n}") for n, image in enumerate(images)])
    assert provider.complaints == []
    unlucky = sum(kind != "fine" for kind in planned.values())
    assert len(planned) == count and 0.06 * count < unlucky < 0.15 * count
    for n, reply in enumerate(replies):
        assert reply.uri == f"s3://b/{n}"
        if planned[n] in causes:
            assert reply.failure.cause is causes[planned[n]], planned[n]
        else:
            assert reply.outcome == TextResult(f"item {n}"), planned[n]
    # Nothing is answered, and so billed, twice; and the books agree with the provider's.
    assert max(provider.answered.values()) == 1
    assert sum(reply.usage.input_tokens for reply in replies) == provider.billed_tokens["input"]
    assert sum(reply.usage.output_tokens for reply in replies) == provider.billed_tokens["output"]
    assert len(provider.received) <= 1.3 * count
