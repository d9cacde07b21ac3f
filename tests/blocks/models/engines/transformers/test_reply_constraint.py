"""Replies held to their form: models of random weights, which would say anything, can say nothing else."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from sightflow.blocks.models.contract import GenerationRequest
from sightflow.blocks.models.engines.transformers.reply_constraint import (
    FollowedChoices,
    ReplyConstraint,
    ReplyGrammars,
)
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.replies.llava_boxes import BOXES
from sightflow.blocks.models.reply_forms import FreeText, Grammar, JsonSchema, Regex, ReplyForm
from sightflow.blocks.models.systems.chat import Chat
from sightflow.blocks.models.systems.florence2 import Florence2
from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, FieldsResult
from sightflow.schemas.failure import Cause, Failure
from tests.tiny_models import qwen_vl
from tests.tiny_models.families import noise, request
from tests.tiny_models.vocabularies import llama_tokenizer

DETECT = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("red circle", "blue/green square"))
ANYTHING = Enrichment(capability=Capability.OBJECT_DETECTION, name="anything")
SEGMENT = Enrichment(capability=Capability.SEGMENTATION, labels=("red circle", "grüner Kreis"))
GROUND = Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=("the (red) circle", "a blue square"))
CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)
CHOOSE = Enrichment(
    capability=Capability.VISUAL_QUESTION_ANSWERING, question="what colour ?", choices=("red", "dark blue"), name="c"
)
EXTRACT = Enrichment(
    capability=Capability.STRUCTURED_EXTRACTION,
    schema={
        "type": "object",
        "properties": {
            "paid": {"type": "string", "enum": ["cash", "card"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 99},
            "day": {"type": "string", "format": "date"},
            "code": {"type": "string", "pattern": "^[A-Z]{3}$"},
            "ok": {"type": ["boolean", "null"]},
        },
        "required": ["paid", "count", "day", "code", "ok"],
    },
)
SIZES = [(60, 40), (28, 28)]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Qwen2VL:
    """Loaded once, which takes seconds with Qwen's vocabulary."""
    weights = qwen_vl.build(tmp_path_factory.mktemp("qwen2_vl") / "weights", generation="qwen2_vl")
    return Qwen2VL(id=str(weights), revision="1", device="cpu")


@contextmanager
def longest(model: Qwen2VL, tokens: int) -> Iterator[Qwen2VL]:
    """A loaded model whose replies have no more tokens than these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "max_new_tokens", tokens)
        yield model


def replies(model: OpenWeightsModel, *asked: Enrichment) -> list[Any]:
    return model.run([request(each, noise(*size), f"s3://b/{size}") for size in SIZES for each in asked])


def test_a_model_that_knows_nothing_writes_valid_fields_and_a_batch_writes_what_single_calls_write(
    qwen: Qwen2VL,
) -> None:
    with longest(qwen, 300) as model:
        together = replies(model, EXTRACT, CHOOSE)
        alone = [r for each in (EXTRACT, CHOOSE) for r in replies(model, each)]
    said = lambda given: sorted((r.uri, r.enrichment, r.raw_reply) for r in given)  # noqa: E731
    assert said(together) == said(alone)
    for reply in together:
        if reply.enrichment == EXTRACT.name:
            assert isinstance(reply.outcome, FieldsResult), reply.outcome
            assert set(json.loads(reply.outcome.json)) == {"paid", "count", "day", "code", "ok"}
        else:
            assert reply.outcome.text in CHOOSE.choices


def test_json_regions_of_any_chat_model_name_only_what_was_asked_for(tmp_path: Path) -> None:
    model = Chat(id=str(qwen_vl.build(tmp_path / "w", generation="qwen3_vl")), device="cpu", max_new_tokens=20)
    for reply in replies(model, DETECT, SEGMENT):
        text = (reply.raw_reply or "").strip()
        assert text.startswith("[")
        assert set(re.findall(r'"label":\s*"([^"]*)"', text)) <= {*DETECT.labels, *GROUND.phrases, *SEGMENT.labels}
        if not (isinstance(reply.outcome, Failure) and reply.outcome.cause is Cause.TRUNCATED):
            json.loads(text)


def test_marked_boxes_have_two_points_and_the_label_that_was_asked_for(qwen: Qwen2VL) -> None:
    with longest(qwen, 20) as model:
        given = replies(model, DETECT, ANYTHING)
    for reply in given:
        for said in (reply.raw_reply or "").split("\n"):
            assert "box_start" in said or said.strip(" .").lower() in ("none", ""), said


def test_places_come_as_four_numbers_a_box_and_pairs_a_polygon() -> None:
    """Florence-2, asked for what it was not trained on, of noise."""
    model = Florence2(id=str(MODEL_FOLDER), device="cpu", max_new_tokens=40)
    for reply in replies(model, DETECT, GROUND, SEGMENT):
        count = 4 if reply.enrichment != SEGMENT.name else 2
        for place in re.findall(r"(?:<loc_\d+>)+", reply.raw_reply or ""):
            assert place.count("<loc_") % count == 0 or isinstance(reply.outcome, Failure)
        if isinstance(reply.outcome, Failure):
            assert (
                reply.outcome.cause is Cause.TRUNCATED
                or "box" in reply.outcome.message
                or "encloses" in (reply.outcome.message)
            )


def test_it_can_be_turned_off_and_a_limit_that_is_reached_is_told(qwen: Qwen2VL) -> None:
    free = Qwen2VL(id=qwen.id, device="cpu", max_new_tokens=12, enforce_reply_form=False)
    assert all(isinstance(reply.outcome, Failure) for reply in replies(free, EXTRACT, CHOOSE))
    with longest(qwen, 5) as short:
        assert {reply.outcome.cause for reply in replies(short, EXTRACT)} == {Cause.TRUNCATED}


# --- fingerprints -------------------------------------------------------------------------------


def test_what_was_computed_before_is_stale_only_where_its_form_is_enforced_now(qwen: Qwen2VL) -> None:
    """Recipes as they were before forms were enforced, of captions, choices and boxes."""
    on, off, old = (Qwen2VL(id=qwen.id, revision="1", enforce_reply_form=enforced) for enforced in (True, False, True))
    recipe = lambda model, asked: model.recipe(asked, MediaKind.IMAGE)  # noqa: E731
    assert recipe(on, CAPTION) == recipe(off, CAPTION)  # free text
    assert recipe(on, CHOOSE) != recipe(off, CHOOSE)  # enforced ever since
    assert recipe(on, DETECT) != recipe(off, DETECT)
    old.open_engine().enforced_forms = ()  # type: ignore[misc]
    assert recipe(old, CAPTION) == recipe(on, CAPTION)
    assert recipe(old, CHOOSE) == recipe(on, CHOOSE)
    assert recipe(old, DETECT) == recipe(off, DETECT)


# --- the constraint by itself -------------------------------------------------------------------


def spelled(form: ReplyForm, grammars: ReplyGrammars, tokenizer: Any, text: str) -> bool:
    """Whether a text, token by token, is a whole reply of a form."""
    followed = grammars.follow(form)
    assert followed is not None
    start = [1]
    constraint = ReplyConstraint([followed, None], 1, {tokenizer.eos_token_id})
    for token in [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]:
        scores = constraint(torch.tensor([start, start]), torch.zeros(2, len(tokenizer)))
        assert torch.isfinite(scores[1]).all()  # a neighbour without a form says what it likes
        if not torch.isfinite(scores[0, token]):
            return False
        start = [*start, token]
    return bool(torch.isfinite(constraint(torch.tensor([start, start]), torch.zeros(2, len(tokenizer)))).all())


def test_each_kind_of_form_is_followed_to_its_end(qwen: Qwen2VL) -> None:
    qwen.prepare()
    vocabulary = qwen.open_engine().weights.tokenizer  # type: ignore[attr-defined]
    grammars = ReplyGrammars(vocabulary, len(vocabulary), [vocabulary.eos_token_id])
    number = JsonSchema({"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False})
    pairs = Grammar('start: "(" start ")" | "x"')
    numbers = Regex("[0-9]{2}(, [0-9]{2})*")
    fractions = "[0.1, 0.25, 1, 0.9999]"
    right = [
        (BOXES, fractions),
        (BOXES, f"{fractions}, {fractions}."),
        (number, '{"n": 12}'),
        (number, "{}"),
        (number, ' {\n  "n": 1\n}'),
        (numbers, "12, 34"),
        (pairs, "((x))"),
    ]
    wrong = [
        (BOXES, "[0.1, 0.2, 0.3]"),
        (BOXES, "[0.1, 2, 0.3, 1]"),
        (number, '{"n": "a"}'),
        (number, '{"n": 1'),
        (numbers, "12, 3"),
        (pairs, "((x)"),
        (number, "{      " * 9),
    ]
    assert [text for form, text in right if not spelled(form, grammars, vocabulary, text)] == []
    assert [text for form, text in wrong if spelled(form, grammars, vocabulary, text)] == []


def test_a_list_of_words_is_followed_too() -> None:
    vocabulary = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    grammars = ReplyGrammars(vocabulary, len(vocabulary), [vocabulary.eos_token_id])
    assert spelled(Regex("red (circle|square)"), grammars, vocabulary, "red circle")
    assert not spelled(Regex("red (circle|square)"), grammars, vocabulary, "red star")


def test_a_form_that_a_tokenizer_cannot_spell_is_left_to_the_reader(caplog: pytest.LogCaptureFixture) -> None:
    vocabulary = llama_tokenizer()
    grammars = ReplyGrammars(vocabulary, len(vocabulary), [vocabulary.eos_token_id])
    form = Grammar("start: place", (("place", r"<loc_\d+>"),))
    assert grammars.follow(form) is None and grammars.follow(form) is None
    assert grammars.follow(Regex("(")) is None
    assert caplog.text.count("replies are not held to their form") == 2


def test_choices_are_followed_where_one_begins_as_another() -> None:
    constraint = ReplyConstraint([FollowedChoices([[3, 9], [3, 4, 9]])], 1, {9})
    allowed = lambda tokens: torch.isfinite(constraint(torch.tensor([tokens]), torch.zeros(1, 40)))[0].nonzero()  # noqa: E731
    assert allowed([0]).flatten().tolist() == [3]
    assert allowed([0, 3]).flatten().tolist() == [4, 9]
    assert allowed([0, 3, 4]).flatten().tolist() == [9]
    assert len(allowed([0, 3, 4, 9])) == 40


def test_free_text_has_no_constraint(qwen: Qwen2VL) -> None:
    qwen.prepare()
    weights = qwen.open_engine().weights  # type: ignore[attr-defined]
    (prompt,) = qwen.prompts(CAPTION, MediaKind.IMAGE)
    assert isinstance(prompt.reply_form, FreeText)
    assert weights.reply_processors([GenerationRequest(request(CAPTION, noise(28, 28)), prompt)], 3) is None
