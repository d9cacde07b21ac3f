"""Replies end where a model's positions do: told as truncated, and in a batch as alone."""

from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.models.systems.florence2 import Florence2
from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause
from sightflow.schemas.vision import VisionReply
from tests.tiny_models.families import FAMILIES, Family, generate, loaded, noise, request, units

ROTARY = ("llava_next", "video_llava", "qwen2_vl", "instruct_blip_vicuna")
CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)


def ask(question: str) -> Enrichment:
    return Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question=question)


SHORT, LONG = ask("what is it ?"), ask("what is it , and is it large or small , red or blue or green ? " * 3)


def failure(reply: VisionReply) -> tuple[Cause, str] | None:
    return reply.failure and (reply.failure.cause, reply.failure.message)


@pytest.fixture(
    params=[f for f in FAMILIES if f.name in ("llava_next", "video_llava", "qwen2_vl", "instruct_blip_vicuna")], ids=str
)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Each family, with more tokens allowed for a reply than it has positions."""
    family: Family = request.param
    folder = tmp_path / "tiny"
    family.build(folder)
    model = family.adapter(id=str(folder), max_new_tokens=100_000, batch_size=8, device="cpu")
    model.prepare()
    return model


def test_a_reply_ends_with_the_positions_in_a_batch_as_alone(model: Any) -> None:
    text_config = loaded(model).config.get_text_config()
    short, long = (request(question, noise(20, 20)) for question in (SHORT, LONG))
    model.max_new_tokens = 1
    lengths = [generate(model, units(model, each))[0].usage.input_tokens for each in (short, long)]
    assert lengths[0] < lengths[1]
    model.max_new_tokens = 100_000
    text_config.max_position_embeddings = positions = lengths[1] + 3
    loaded(model).generation_config.eos_token_id = text_config.vocab_size + 7  # it never ends by itself
    inner = getattr(loaded(model), "language_model", None)
    if hasattr(inner, "generation_config"):
        inner.generation_config.eos_token_id = text_config.vocab_size + 7
    alone = [model.run([each])[0] for each in (short, long)]
    assert model.run([short, long]) == alone
    for reply, length in zip(alone, lengths, strict=True):
        room = positions - length
        assert failure(reply) == (Cause.TRUNCATED, f"the model's positions ended after {room} tokens of the reply")
        assert reply.usage.output_tokens == room
    # A prompt that does not fit by itself fails for good, and its neighbour does not.
    text_config.max_position_embeddings = lengths[1] - 1
    fits, does_not = model.run([short, long])
    assert failure(fits)[0] is Cause.TRUNCATED
    assert failure(does_not)[0] is Cause.TOO_LARGE and f"{lengths[1]:,} tokens" in failure(does_not)[1]


def test_florence_with_more_tokens_allowed_than_its_decoder_has_positions() -> None:
    model = Florence2(id=str(MODEL_FOLDER), max_new_tokens=100_000, device="cpu")
    model.prepare()
    positions = loaded(model).config.get_text_config().max_position_embeddings
    # Noise is captioned without an end.
    ended = (Cause.TRUNCATED, f"the model's positions ended after {positions} tokens of the reply")
    replies = model.run([request(CAPTION, noise(*size), "s3://b/y") for size in ((40, 40), (30, 40))])
    assert [failure(reply) for reply in replies] == [ended, ended]
    too_long = request(ask("what is it ? " * 400), noise(30, 40), "s3://b/long")
    fits, does_not = model.run([request(CAPTION, noise(40, 40)), too_long])
    assert failure(fits) == ended
    assert failure(does_not)[0] is Cause.TOO_LARGE and f"{positions} positions" in failure(does_not)[1]
