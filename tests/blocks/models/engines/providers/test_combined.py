"""`combine: true`: what is asked of one object goes in one request, and each answer is what it would be alone."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightflow.blocks.models.contract import BilledFailure, Generated, GenerationRequest, Incomplete, Output, Prompt
from sightflow.blocks.models.replies.asked_together import CombinedPrompt, apart, together
from sightflow.blocks.models.reply_forms import Regex
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment, RegionsResult
from sightflow.schemas.failure import Cause, Failure
from sightflow.schemas.geometry import Box
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.vision import Usage, VisionReply, VisionRequest
from tests.blocks.models.engines.providers import test_videos as videos
from tests.loopback.hosted_systems import (
    ALL,
    CAPTION,
    CHOOSE,
    DETECT,
    GENERATIONS,
    GPT,
    SMALL,
    System,
    image_with_box,
    named,
    perfect,
)
from tests.loopback.server import Received, Say

NAMED = [enrichment.model_copy(update={"name": f"e{place}"}) for place, enrichment in enumerate(ALL)]
BOX = (100.0, 120.0, 300.0, 360.0)


def about(enrichments: Any, image: Any = SMALL, uri: str = "s3://b/x.png") -> list[VisionRequest]:
    """All that is asked of one object."""
    media = DecodedImage(image, image.width, image.height, "0" * 64)
    return [VisionRequest(uri, enrichment, media) for enrichment in enrichments]


def parts_of(received: Received) -> dict[str, str]:
    """The questions of a request, by the key of their answer; empty, if it is one alone."""
    asked = next((text for text in map(str.strip, received.texts) if text.startswith("Answer each of these")), "")
    found = re.split(r'\n\n"(e\d+)": ', asked)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def well(system: System, changed: Callable[[dict[str, Any]], Any] = lambda said: said) -> Callable[[Received], Say]:
    """A model that answers what is asked together as it answers each alone, but for what is `changed`."""
    alone = perfect(system)

    def said(received: Received, text: str) -> Any:
        reply = alone(replace(received, texts=(text,)))
        assert isinstance(reply, Say)
        if "exactly one of these" in text:
            return "yes"
        return json.loads(reply.text) if reply.text[0] in "[{" else reply.text

    def behave(received: Received) -> Say:
        if parts := parts_of(received):
            return Say(json.dumps(changed({name: said(received, text) for name, text in parts.items()})))
        reply = alone(received)
        assert isinstance(reply, Say)
        return reply

    return behave


@pytest.mark.parametrize("system", GENERATIONS, ids=named)
def test_each_answer_is_what_it_is_alone(system: System) -> None:
    image = image_with_box((640, 480), BOX)
    with system.on_loopback(well(system)) as provider:
        alone = system.connect(provider).run(about(NAMED, image))
        apart_count, before = len(provider.received), dict(provider.billed_tokens)
        combined = system.connect(provider, combine=True).run(about(NAMED, image))
    assert provider.complaints == []
    assert apart_count == len(NAMED) and len(provider.received) == apart_count + 1
    assert [reply.failure for reply in combined] == [None] * len(NAMED)
    assert [(reply.enrichment, reply.outcome) for reply in combined] == [
        (reply.enrichment, reply.outcome) for reply in alone
    ]
    spent = sum((reply.usage for reply in combined), Usage())
    assert spent.input_tokens == provider.billed_tokens["input"] - before["input"]
    assert spent.output_tokens == provider.billed_tokens["output"] - before["output"]
    rates = system.model(id=system.id).rates
    assert rates is not None
    assert spent.cost_usd == pytest.approx(rates.cost(Usage(spent.input_tokens, spent.output_tokens)))


@pytest.mark.parametrize("system", GENERATIONS, ids=named)
def test_one_that_cannot_be_read_costs_the_others_nothing(system: System) -> None:
    def spoilt(said: dict[str, Any]) -> dict[str, Any]:
        del said["e0"]
        return said | {"e5": "I see a box."}

    with system.on_loopback(well(system, spoilt)) as provider:
        replies = system.connect(provider, combine=True).run(about(NAMED))
    assert len(provider.received) == 2, "once more, for what could not be read"
    failed = {reply.enrichment: reply.failure.cause for reply in replies if reply.failure}
    assert failed == {"e0": Cause.MALFORMED, "e5": Cause.MALFORMED}
    spent = sum((reply.usage for reply in replies), Usage())
    assert spent.input_tokens == provider.billed_tokens["input"]
    assert all(reply.raw_reply and reply.raw_reply.count('"e1"') == 2 for reply in replies), (
        "both replies, as they came"
    )


@pytest.mark.parametrize("text", ["A red box.", "[]", '{"e0": "x"', "", "null", '{"e0": "a", "e0": "b"}', "[" * 5000])
def test_a_reply_that_is_no_object_fails_all_of_it(text: str) -> None:
    with GPT.on_loopback(lambda _: Say(text)) as provider:
        replies = GPT.connect(provider, combine=True).run(about(NAMED[:3]))
    assert [reply.failure and reply.failure.cause for reply in replies] == [Cause.MALFORMED] * 3
    assert sum(reply.usage.input_tokens for reply in replies) == provider.billed_tokens["input"]


def test_a_box_outside_the_picture_is_the_failure_of_its_enrichment_alone() -> None:
    outside = {"regions": [{"label": "box", "box": [100, 100, 3000, 900]}]}
    with GPT.on_loopback(well(GPT, lambda said: said | {"e5": outside})) as provider:
        replies = GPT.connect(provider, combine=True).run(about(NAMED))
    assert len(provider.received) == 1, "a wrong answer in the right form is not asked again"
    assert [reply.enrichment for reply in replies if reply.failure] == ["e5"]


@pytest.mark.parametrize("kind", ["truncated", "refusal", "blocked"])
def test_what_is_declined_or_broken_off_is_so_for_all_of_it(kind: str) -> None:
    with GPT.on_loopback(lambda _: Say('{"e0": "A red', kind)) as provider:
        replies = GPT.connect(provider, combine=True).run(about(NAMED[:3]))
    (cause,) = {reply.failure and reply.failure.cause for reply in replies}
    assert cause is (Cause.TRUNCATED if kind == "truncated" else Cause.REFUSED)


def test_objects_are_asked_about_one_by_one_and_one_question_as_ever() -> None:
    boxes = [(2.0 + 5 * k, 12.0, 30.0, 36.0) for k in range(4)]
    asked = [each for k, box in enumerate(boxes) for each in about(NAMED, image_with_box((64, 48), box), f"s3://b/{k}")]
    with GPT.on_loopback(well(GPT)) as provider:
        replies = GPT.connect(provider, combine=True).run(asked)
        assert len(provider.received) == len(boxes)
        GPT.connect(provider, combine=True).run(about(NAMED[:1]))
        GPT.connect(provider).run(about(NAMED[:1]))
    lone = [received.texts[0] for received in provider.received[-2:]]
    assert lone[0] == lone[1]
    assert [(reply.uri, reply.enrichment) for reply in replies] == [(e.uri, e.enrichment.name) for e in asked]
    for reply in replies[5 :: len(NAMED)]:
        assert isinstance(reply.outcome, RegionsResult)
        assert reply.outcome.regions[0].box.iou(Box(*boxes[int(reply.uri[-1])])) > 0.9


def test_it_is_part_of_the_recipe_and_nothing_is_where_it_is_off() -> None:
    alone, combined = GPT.model(id=GPT.id), GPT.model(id=GPT.id, combine=True)
    assert alone.recipe(CAPTION, MediaKind.IMAGE) != combined.recipe(CAPTION, MediaKind.IMAGE)
    assert "combine" not in alone.generation_settings()


def generation(enrichment: Enrichment, media: DecodedImage, prompt: Prompt | None = None) -> GenerationRequest:
    own = prompt or GPT.model(id=GPT.id).prompts(enrichment, MediaKind.IMAGE)[0]
    return GenerationRequest(VisionRequest("s3://b/x.png", enrichment, media), own)


def test_what_cannot_be_joined_is_asked_alone() -> None:
    media = DecodedImage(SMALL, 64, 48, "0" * 64)
    two = VisionRequest("s3://b/x.png", NAMED[4], media)
    alone = [
        GenerationRequest(two, Prompt("one phrase")),
        GenerationRequest(two, Prompt("another")),
        generation(NAMED[1], media, Prompt("of a form", reply_form=Regex("[0-9]+"))),
        replace(generation(NAMED[2], media), unreadable="yes and no"),
        generation(NAMED[6], DecodedImage(SMALL, 64, 48, "1" * 64)),
    ]
    joined = together([*alone, generation(NAMED[0], media), generation(NAMED[5], media), generation(NAMED[0], media)])
    assert joined[:5] == alone
    assert isinstance(joined[5].prompt, CombinedPrompt) and len(joined[5].prompt.parts) == 2
    assert not isinstance(joined[6].prompt, CombinedPrompt), "a key stands for one answer"


TOKENS = st.integers(0, 10**6)
USAGES = st.builds(Usage, TOKENS, TOKENS, st.floats(0, 100), TOKENS, TOKENS, TOKENS)
OUTPUTS: st.SearchStrategy[Output | None] = st.one_of(
    st.none(),
    st.builds(Failure, st.just(Cause.MODEL), st.just("no")),
    st.builds(BilledFailure, st.just(Cause.MALFORMED), st.just("no"), usage=USAGES),
    st.builds(Generated, st.sampled_from(['{"e0": "a", "e2": "yes"}', "nothing", "{}"]), USAGES),
)


@given(st.lists(OUTPUTS, min_size=3, max_size=3), st.permutations([0, 2, 5, 10, 12, 15, 20]))
def test_what_was_spent_is_divided_and_nothing_is_lost(outputs: list[Output | None], order: list[int]) -> None:
    """Three objects with three, three and one enrichments, in any order."""
    media = [DecodedImage(SMALL, 64, 48, "0" * 64) for _ in range(3)]
    batch = [generation(NAMED[place % 10], media[place // 10]) for place in order]
    joined = together(batch)
    assert len(joined) == 3
    made = apart(batch, joined, outputs)
    assert len(made) == len(batch)
    for each, output in zip(joined, outputs, strict=True):
        own = [part for part, asked in zip(made, batch, strict=True) if asked.request.media is each.request.media]
        assert [part is None for part in own] == [output is None] * len(own)
        if isinstance(output, Generated | BilledFailure):
            parts = [part.usage for part in own if isinstance(part, Generated | BilledFailure)]
            total = sum(parts, Usage())
            assert len(parts) == len(own)
            assert replace(total, cost_usd=0.0) == replace(output.usage, cost_usd=0.0)
            assert total.cost_usd == pytest.approx(output.usage.cost_usd)


def test_what_stops_the_run_leaves_whole_objects_to_be_asked() -> None:
    def behave(received: Received) -> Any:
        return well(GPT)(received)

    with GPT.on_loopback(behave) as provider:
        model = GPT.connect(provider, combine=True)
        first, second = about(NAMED[:3], uri="s3://b/1"), about(NAMED[:3], uri="s3://b/2")
        answered = model.run(first)
        engine = model.open_engine()
        generate = engine.generate

        def stopped(requests: Any) -> Any:
            raise Incomplete("the run has ended", [*generate(requests[:1]), *([None] * (len(requests) - 1))])

        engine.generate = stopped  # type: ignore[method-assign]
        with pytest.raises(Incomplete, match="the run has ended") as met:
            model.run([*first, *second])
    given_back = met.value.done
    assert [each and each.outcome for each in given_back[:3]] == [each.outcome for each in answered]
    assert given_back[3:] == [None] * 3 and all(isinstance(each, VisionReply) for each in given_back[:3])


def test_choices_and_boxes_are_held_to_their_form_by_the_provider() -> None:
    with GPT.on_loopback(well(GPT)) as provider:
        GPT.connect(provider, combine=True).run(about([NAMED[2], NAMED[5]]))
    schema = provider.received[0].body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["e2"] == {"type": "string", "enum": list(CHOOSE.choices)}
    assert "regions" in schema["properties"]["e5"]["properties"] and DETECT.labels is not None


@pytest.mark.parametrize("system", GENERATIONS, ids=named)
def test_of_a_video_texts_go_together_and_places_do(system: System) -> None:
    alone_of = videos.perfect(system)
    asked = [e.model_copy(update={"name": f"e{place}"}) for place, e in enumerate(videos.ALL)]

    def behave(received: Received) -> Say:
        if not (parts := parts_of(received)):
            return Say(alone_of(received).text)
        said: dict[str, Any] = {}
        for name, text in parts.items():
            reply = alone_of(replace(received, texts=(*received.texts[:-1], text))).text
            said[name] = "it moves" if "exactly" in text else json.loads(reply) if reply[0] in "[{" else reply
        return Say(json.dumps(said))

    with system.on_loopback(behave) as provider:
        alone = system.connect(provider).run([videos.ask(enrichment, videos.video()) for enrichment in asked])
        before = len(provider.received)
        model = system.connect(provider, combine=True)
        combined = model.run([videos.ask(enrichment, videos.video()) for enrichment in asked])
    assert provider.complaints == []
    assert before == len(asked) and len(provider.received) == before + 2
    assert [reply.failure for reply in combined] == [None] * len(asked)
    assert [reply.outcome for reply in combined] == [reply.outcome for reply in alone]
