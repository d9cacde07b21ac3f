"""Prompts about one picture or film share its reading by the language model, and say what they say alone."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sightflow.blocks.models.contract import GenerationRequest
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.media import Media
from tests.tiny_models.families import FAMILIES, Family, generate, generator, noise, noisy_video, request
from tests.tiny_models.families import loaded as module

DECODERS = tuple(family for family in FAMILIES if not family.adapter.prompt_conditioned_vision)
EACH = pytest.mark.parametrize("family", DECODERS, ids=str)
QUESTIONS = (
    "what colour is it ?",
    "is it large or small ?",
    "is there a circle, a square or a star left of the large blue one ?",
    "why ?",
    "how many are there ?",
)
CHOICES = ("red", "dark blue", "green", "yes", "no")
LIMITS = (7, 1, 12, 4, 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


def load(family: Family, folder: Path, **settings: object) -> OpenWeightsModel:
    if not (folder / family.name).exists():
        family.build(folder / family.name)
    model = family.adapter(id=str(folder / family.name), device="cpu", **settings)
    model.prepare()
    return model


def asked(model: OpenWeightsModel, media: Media, count: int, first: int = 0) -> list[GenerationRequest]:
    """`count` questions about one medium, every second of them with choices, each with a limit of its own."""
    made = []
    for k in range(first, first + count):
        enrichment = Enrichment(
            capability=Capability.VISUAL_QUESTION_ANSWERING,
            question=QUESTIONS[k % 5],
            choices=CHOICES if k % 2 else (),
            name=f"q{k}",
        )
        (prompt,) = model.prompts(enrichment, media.kind)
        limit = 12 if prompt.choices else LIMITS[k % 5]
        made.append(GenerationRequest(request(enrichment, media), replace(prompt, max_new_tokens=limit)))
    return made


def mixed(model: OpenWeightsModel) -> list[GenerationRequest]:
    """Five, two and one questions about pictures of different sizes, and two and one about films, interleaved."""
    units = asked(model, noise(60, 40), 5) + asked(model, noise(33, 90), 2, 3) + asked(model, noise(120, 61), 1, 2)
    if MediaKind.VIDEO in model.media_kinds:
        units += asked(model, noisy_video(8), 2, 1) + asked(model, noisy_video(3, 40, 60), 1)
    return units[::2] + units[1::2]


@contextmanager
def tokens_read(model: OpenWeightsModel) -> Iterator[list[int]]:
    """How many tokens pass the language model's first layer, call by call."""
    seen: list[int] = []
    layer = module(model).base_model.language_model.layers[0]
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[0] * args[0].shape[1]))
    try:
        yield seen
    finally:
        hook.remove()


@EACH
def test_prompts_about_one_medium_say_together_what_each_says_alone(family: Family, folder: Path) -> None:
    model = load(family, folder)
    units = mixed(model)
    with torch.inference_mode():
        alone = [each for unit in units for each in generate(model, [unit])]
        with tokens_read(model) as shared:
            assert generate(model, units) == alone
        apart = load(family, folder, share_prefix=False)
        with tokens_read(apart) as unshared:
            assert generate(apart, units) == alone
    assert len({g.text for g in alone}) > len(alone) / 2
    assert generator(model).shares_prefix and not generator(apart).shares_prefix
    assert max(shared) < max(unshared) / 1.5  # the longest pass reads each medium once


@EACH
@pytest.mark.parametrize("count", [1, 2, 5])
def test_one_picture_alone_in_its_batch(family: Family, folder: Path, count: int) -> None:
    model = load(family, folder)
    units = asked(model, noise(90, 70), count)
    same = [replace(unit, prompt=replace(units[0].prompt, text=units[0].prompt.text)) for unit in units]
    with torch.inference_mode():
        for batch in (units, same):  # of one length there is no padding at all
            assert generate(model, batch) == [each for unit in batch for each in generate(model, [unit])]


def test_a_film_of_many_frames_keeps_the_places_of_its_words(folder: Path) -> None:
    """In the Qwen-VL line words after a film go on from its height or width, however long it is."""
    for family in DECODERS[2:]:
        model = load(family, folder)
        units = asked(model, noisy_video(20, 30, 30), 3)
        with torch.inference_mode():
            assert generate(model, units) == [each for unit in units for each in generate(model, [unit])]


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in DECODERS], ids=str)
def test_what_the_prompt_guides_is_not_shared(family: Family, folder: Path) -> None:
    assert not generator(load(family, folder)).shares_prefix


def test_words_before_the_picture_are_read_for_each_prompt(folder: Path) -> None:
    model = load(DECODERS[0], folder)
    template = model._processor.chat_template
    model._processor.chat_template = template.replace("<image>\n", "").replace(
        "{{ part['text'] }}", "{{ part['text'] }}<image>"
    )
    units = asked(model, noise(60, 40), 3)
    assert generator(model).split(units) is None
    with torch.inference_mode():
        assert generate(model, units) == [each for unit in units for each in generate(model, [unit])]


def test_layers_that_look_back_over_a_window_share_nothing(folder: Path, tmp_path: Path) -> None:
    family = DECODERS[2]
    load(family, folder)
    windowed = Path(shutil.copytree(folder / family.name, tmp_path / family.name))
    config = json.loads((windowed / "config.json").read_text())
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 0}
    config["text_config"].pop("layer_types")
    (windowed / "config.json").write_text(json.dumps(config))
    model = load(family, tmp_path)
    assert not generator(model).shares_prefix
    units = mixed(model)
    with torch.inference_mode():
        assert generate(model, units) == [each for unit in units for each in generate(model, [unit])]


def test_sharing_is_no_part_of_a_recipe(folder: Path) -> None:
    models = [load(DECODERS[0], folder, share_prefix=share) for share in (True, False)]
    caption = Enrichment(capability=Capability.IMAGE_CAPTIONING)
    assert len({model.recipe(caption, MediaKind.IMAGE) for model in models}) == 1
