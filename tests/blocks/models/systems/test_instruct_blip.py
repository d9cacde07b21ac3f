"""InstructBLIP: the library's own inputs and words, on an encoder-decoder (T5) and on a decoder (Vicuna)."""

from typing import Any

import pytest
import torch

from sightflow.blocks.models.systems.instruct_blip import InstructBlip
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause
from tests.tiny_models import instruct_blip
from tests.tiny_models.families import generator, loaded, noise, request, units

CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)
ASK = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="what colour is the large square ?")
GROUND = Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=("a red circle",))
LIMIT = 8
EACH = pytest.mark.parametrize("language_model", ["t5", "vicuna"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, InstructBlip]:
    models = {}
    for name in ("t5", "vicuna"):
        folder = instruct_blip.build(tmp_path_factory.mktemp(name) / "tiny", name)  # type: ignore[arg-type]
        models[name] = InstructBlip(id=str(folder), max_new_tokens=LIMIT)
        models[name].prepare()
    return models


@EACH
def test_a_picture_is_asked_about_as_the_library_does_it(models: dict[str, InstructBlip], language_model: str) -> None:
    model = models[language_model]
    for size in ((28, 28), (90, 40), (5, 3)):
        media = noise(*size)
        (unit,) = units(model, request(CAPTION, media))
        theirs = model._processor(images=media.pixels, text=unit.prompt.text, return_tensors="pt")
        ours = generator(model).inputs([unit])
        assert set(ours) == set(theirs)
        for name in theirs:
            assert torch.equal(ours[name], theirs[name]), name
        with torch.inference_mode():
            row = loaded(model).generate(**theirs, max_new_tokens=LIMIT, do_sample=False, num_beams=1)[0]
        # The decoder repeats what it was asked, placeholders and all; the encoder-decoder does not.
        new = row[1:] if language_model == "t5" else row[theirs["input_ids"].shape[1] :]
        said = model.run([unit.request])[0]
        assert said.raw_reply == model._processor.tokenizer.decode(new, skip_special_tokens=True)
        assert said.usage.output_tokens <= LIMIT


@EACH
def test_padding_stands_on_one_side_whatever_the_tokenizers_say(
    models: dict[str, InstructBlip], language_model: str
) -> None:
    model = models[language_model]
    short, long = units(model, request(CAPTION, noise(28, 28)), request(ASK, noise(28, 28)))
    alone, batch = generator(model).inputs([short]), generator(model).inputs([short, long])
    length, asked = alone["qformer_input_ids"].shape[1], alone["input_ids"].shape[1]
    assert batch["qformer_input_ids"][0, :length].tolist() == alone["qformer_input_ids"][0].tolist()
    words = batch["input_ids"][0, :asked] if language_model == "t5" else batch["input_ids"][0, -asked:]
    assert words.tolist() == alone["input_ids"][0].tolist()
    for mask in ("attention_mask", "qformer_attention_mask"):
        row = batch[mask][0].tolist()
        assert row in (sorted(row), sorted(row, reverse=True))


@EACH
def test_a_prompt_longer_than_the_q_former_reads_is_refused_alone(
    models: dict[str, InstructBlip], language_model: str
) -> None:
    model = models[language_model]
    long = ASK.model_copy(update={"question": "what colour ? " * 300})
    replies = model.run([request(long, noise(28, 28)), request(ASK, noise(28, 28))])
    assert replies[0].failure and replies[0].failure.cause is Cause.UNSUPPORTED
    assert "the Q-Former reads 512" in replies[0].failure.message
    assert not replies[1].failure or replies[1].failure.cause is not Cause.UNSUPPORTED


def test_grounding_is_asked_for_without_braces_which_t5_cannot_write() -> None:
    (prompt,) = InstructBlip().prompts(GROUND, MediaKind.IMAGE)
    assert "a red circle" in prompt.text and "{" not in prompt.text
    asked: Any = request(GROUND, noise(200, 100))
    (region,) = InstructBlip().parse(asked, prompt, "[0.5, 0.5, 1, 1]").regions  # type: ignore[union-attr]
    assert (region.box.x_min, region.box.y_max, region.label) == (100, 100, "a red circle")


def test_what_it_is_rated_0_for_is_refused() -> None:
    detect = Enrichment(capability=Capability.OBJECT_DETECTION)
    assert (
        InstructBlip().unsupported_reason(detect, MediaKind.IMAGE)
        == "instruct-blip cannot do object_detection (rated 0)"
    )
    assert InstructBlip().unsupported_reason(ASK, MediaKind.VIDEO) == "instruct-blip takes no video"
