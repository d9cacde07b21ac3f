"""Chat: six families on tiny weights say what the library says, alone and in batches; the rest is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sightflow.blocks.models.contract import Prompt
from sightflow.blocks.models.registry import open_model
from sightflow.blocks.models.reply_forms import Choices, FreeText, JsonSchema
from sightflow.blocks.models.systems.chat import Chat
from sightflow.blocks.models.video.frame_prompts import frames_at_times
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, RegionsResult, TextResult
from sightflow.schemas.failure import ModelError
from tests.tiny_models.chat_families import BUILDERS
from tests.tiny_models.families import (
    assert_asked_as_the_library_does,
    blank,
    generate,
    generator,
    noise,
    noisy_video,
    request,
    said_by_the_library,
    units,
)

CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)
ASK = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="What colour is it?")
CHOOSE = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="colour?", choices=("red", "dark blue"))
REASON = Enrichment(capability=Capability.VISUAL_REASONING, question="Why is it red?")
VIDEO = Enrichment(capability=Capability.VIDEO_CAPTIONING)
GROUND = Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=("the red circle",))
DETECT = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("circle", "square"))
DETECT_ALL = Enrichment(capability=Capability.OBJECT_DETECTION)
SEGMENT = Enrichment(capability=Capability.SEGMENTATION, labels=("circle",))
TRACK = Enrichment(capability=Capability.OBJECT_TRACKING, labels=("circle",))
EACH = pytest.mark.parametrize("family", BUILDERS)
WITH_VIDEO = [name for name in BUILDERS if name != "gemma3"]
LIMIT = 10


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: build(tmp_path_factory.mktemp("chat") / name) for name, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Chat]:
    models = {name: Chat(id=str(folder), max_new_tokens=LIMIT, device="cpu") for name, folder in folders.items()}
    for model in models.values():
        model.prepare()
    return models


# --- what is asked is what the library asks -------------------------------------------------------


@EACH
@pytest.mark.parametrize("size", [(60, 40), (30, 90)], ids=str)
def test_a_picture_is_asked_about_as_the_library_does_it(
    models: dict[str, Chat], family: str, size: tuple[int, int]
) -> None:
    assert_asked_as_the_library_does(models[family], request(CAPTION, noise(*size)), LIMIT)


@EACH
def test_a_batch_says_what_each_says_alone(models: dict[str, Chat], family: str) -> None:
    model = models[family]
    media = [noise(60, 40), noise(33, 90), noise(28, 28)]
    requests = [request(enrichment, each) for each in media for enrichment in (CAPTION, ASK, CHOOSE)]
    alone = [generate(model, [unit])[0] for unit in units(model, *requests)]
    assert [reply.raw_reply for reply in model.run(requests)] == [each.text for each in alone]
    assert len({each.text for each in alone}) > 3, "the pictures make a difference"
    shown = generator(model).preprocess(units(model, *requests))
    together = generator(model).generate(units(model, *requests), shown)
    assert [each.text for each in together] == [each.text for each in alone], "in one pass, without being halved"


@pytest.mark.parametrize("family", WITH_VIDEO)
def test_a_film_is_asked_about_as_the_library_does_it(models: dict[str, Chat], family: str) -> None:
    model, video = models[family], noisy_video(4)
    (unit,) = units(model, request(VIDEO, video))
    theirs = model._processor(
        text=model.texts([unit]),
        videos=[np.stack([np.asarray(frame) for frame in video.frames])],
        do_sample_frames=False,
        video_metadata=[frames_at_times(video)],
        input_data_format="channels_last",
        return_tensors="pt",
    )
    ours = generator(model).inputs([unit])
    for name in theirs:
        assert torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(theirs[name])), name
    (tokens,) = said_by_the_library(model, theirs, theirs["input_ids"].shape[1], LIMIT)
    (said,) = model.run([request(VIDEO, video)])
    assert said.raw_reply == model._processor.tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("family", WITH_VIDEO)
def test_films_of_any_length_and_pictures_beside_them_say_what_each_says_alone(
    models: dict[str, Chat], family: str
) -> None:
    model = models[family]
    requests = [
        *(request(VIDEO, noisy_video(frames, seed=frames)) for frames in (2, 4, 3, 4)),
        request(CAPTION, noise(40, 40)),
    ]
    alone = [model.run([each])[0].raw_reply for each in requests]
    assert [reply.raw_reply for reply in model.run(requests)] == alone
    assert len(set(alone)) > 2, "the films make a difference"


@EACH
def test_choices_are_kept_to(models: dict[str, Chat], family: str) -> None:
    for reply in models[family].run([request(CHOOSE, noise(40, 30, seed)) for seed in range(3)]):
        assert isinstance(reply.outcome, TextResult) and reply.outcome.text in CHOOSE.choices


def test_a_family_that_takes_no_films_is_shown_them_frame_by_frame(models: dict[str, Chat]) -> None:
    ask = CHOOSE.model_copy(update={"name": "asked"})
    assert models["gemma3"].runs_per_frame(ask, MediaKind.VIDEO)
    (reply,) = models["gemma3"].run([request(ask, noisy_video(3))])
    assert isinstance(reply.outcome, TextResult)


# --- every cell is served or refused --------------------------------------------------------------

_TEXT = {"image_captioning", "visual_question_answering", "visual_reasoning", "video_captioning"}
_BOXES = {"visual_grounding", "object_detection"}
SERVED = {
    "qwen3_vl": _TEXT | _BOXES | {"segmentation", "object_tracking"},
    "smolvlm": _TEXT,
    "gemma3": _TEXT,
    "internvl": _TEXT | _BOXES | {"object_tracking"},
    "llava_onevision": _TEXT,
    "molmo2": _TEXT | _BOXES,
}


@EACH
def test_every_cell_is_served_or_refused_with_its_reason(models: dict[str, Chat], family: str) -> None:
    model, served = models[family], set[str]()
    for enrichment in (CAPTION, ASK, REASON, GROUND, DETECT, SEGMENT, TRACK, VIDEO):
        for kind in enrichment.capability.media_kinds:
            reason = model.unsupported_reason(enrichment, kind)
            if reason is None:
                served.add(enrichment.capability.value)
                assert model.recipe(enrichment, kind) and model.effective_prompts(enrichment, kind)
            else:
                assert "box_format" in reason or "it " in reason, reason
    assert served == SERVED[family]
    if family in ("internvl", "molmo2"):
        assert "name the labels" in (model.unsupported_reason(DETECT_ALL, MediaKind.IMAGE) or "")


def test_an_unknown_way_of_writing_boxes_is_refused_and_may_be_said(folders: dict[str, Path]) -> None:
    unknown = Chat(id=str(folders["smolvlm"]))
    reason = unknown.unsupported_reason(DETECT, MediaKind.IMAGE) or ""
    assert "smolvlm" in reason and "set box_format to one of: thousandths" in reason
    told = Chat(id=str(folders["smolvlm"]), box_format="thousandths")
    assert told.unsupported_reason(DETECT, MediaKind.IMAGE) is None
    assert told.recipe(DETECT, MediaKind.IMAGE) != Chat(id=told.id, box_format="fractions").recipe(
        DETECT, MediaKind.IMAGE
    )


def test_boxes_in_pixels_are_those_of_the_picture_that_the_processor_makes(
    models: dict[str, Chat],
) -> None:
    text = json.dumps([{"bbox_2d": [0, 0, 14, 28], "label": "circle"}])
    in_pixels = []
    for name in ("gemma3", "qwen3_vl", "llava_onevision"):
        in_pixels.append(Chat(id=models[name].id, box_format="pixels"))
        in_pixels[-1].on_loaded(models[name]._processor, models[name]._config)
    squeezed, grid, cut = in_pixels
    asked = request(DETECT, blank(280, 140))
    result = squeezed.parse(asked, Prompt(""), text)
    assert isinstance(result, RegionsResult)
    assert (result.regions[0].box.x_max, result.regions[0].box.y_max) == (140, 140)  # 28 x 28 pixels are seen
    width, height = grid.seen_size((280, 140))
    assert (width % 32, height % 32) == (0, 0)
    with pytest.raises(Exception, match="cuts pictures up"):
        cut.parse(asked, Prompt(""), text)


# --- templates --------------------------------------------------------------------------------------


def with_template(folder: Path, tmp_path: Path, template: str) -> Chat:
    """The same weights with another chat template."""
    copied = tmp_path / "weights"
    copied.mkdir()
    for file in folder.iterdir():
        (copied / file.name).symlink_to(file)
    (copied / "chat_template.jinja").unlink()
    (copied / "chat_template.jinja").write_text(template)
    return Chat(id=str(copied), max_new_tokens=LIMIT, device="cpu")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}", "the picture"),
        ("<image>", "leaves out what is asked"),
        ("{{ raise_exception('no pictures, please') }}", "no pictures, please"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "fails on a question"),
        ("{% for i in range(99999) %}{{ 'x' * 50 }}{% endfor %}", "characters of a short question"),
    ],
)
def test_a_template_that_does_not_show_the_picture_and_the_question_is_refused(
    folders: dict[str, Path], tmp_path: Path, template: str, why: str
) -> None:
    model = with_template(folders["smolvlm"], tmp_path, template)
    with pytest.raises(ModelError, match=why):
        model.prepare()


def test_a_template_without_an_end_is_waited_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    from sightflow.blocks.models.chat import template as chat_template

    class Endless:
        def apply_chat_template(self, *_: Any, **__: Any) -> str:
            time.sleep(3600)
            return ""

    with pytest.raises(ModelError, match=r"not rendered within 0\.2 s"):
        chat_template.check_template(Endless(), seconds=0.2)


def test_a_template_of_absurd_length_or_none_at_all_is_refused_before_anything_is_loaded(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    model = with_template(folders["smolvlm"], tmp_path, "{# " + "x" * 300_000 + " #}")
    assert "longer than 256 KiB" in model.availability().why
    (Path(model.id) / "chat_template.jinja").unlink()
    refused = Chat(id=model.id).availability()
    assert "holds no chat template" in refused.why and "instruction-tuned" in refused.remedy


def test_another_template_is_another_recipe(folders: dict[str, Path], tmp_path: Path) -> None:
    template = (folders["smolvlm"] / "chat_template.jinja").read_text()
    model = with_template(folders["smolvlm"], tmp_path, template)
    before = model.recipe(CAPTION, MediaKind.IMAGE)
    (Path(model.id) / "chat_template.jinja").write_text("Be brief. " + template)
    assert Chat(id=model.id, max_new_tokens=LIMIT).recipe(CAPTION, MediaKind.IMAGE) != before


def test_a_template_in_the_tokenizer_s_config_is_found(folders: dict[str, Path], tmp_path: Path) -> None:
    model = with_template(folders["smolvlm"], tmp_path, "")
    template = (folders["smolvlm"] / "chat_template.jinja").read_text()
    folder = Path(model.id)
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": template}
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    model.prepare()
    assert isinstance(model.run([request(CHOOSE, noise(40, 30))])[0].outcome, TextResult)


def test_a_prompt_that_holds_what_stands_for_the_picture_fails_alone(models: dict[str, Chat]) -> None:
    for token in ("<im_patch>", "<|image|>"):
        forged = Enrichment(capability=Capability.VISUAL_REASONING, question=f"What is {token}?")
        first, second = models["molmo2"].run([request(forged, noise(30, 30)), request(CHOOSE, noise(30, 30))])
        assert first.failure and "stands for the media" in first.failure.message
        assert isinstance(second.outcome, TextResult)


# --- thinking ---------------------------------------------------------------------------------------


def test_thinking_between_special_tokens_is_not_part_of_the_answer(models: dict[str, Chat]) -> None:
    runs = generator(models["qwen3_vl"])
    tokenizer = runs.weights.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    (unit,) = units(models["qwen3_vl"], request(CAPTION, noise(40, 40)))
    for written in ("<think>It is red.</think>A circle.", "It is red.</think>A circle.", "A circle."):
        ids = [*tokenizer(written)["input_ids"], tokenizer.eos_token_id]
        said = runs._generated(unit, ids, 5, 100)
        assert models["qwen3_vl"].parse(unit.request, unit.prompt, said.text) == TextResult("A circle.")


def test_thinking_is_asked_for_or_not_by_the_template_s_own_switch(folders: dict[str, Path], tmp_path: Path) -> None:
    template = (folders["smolvlm"] / "chat_template.jinja").read_text()
    model = with_template(
        folders["smolvlm"], tmp_path, template + "{% if enable_thinking is false %}</think>{% endif %}"
    )
    model.thinking = False
    model.prepare()
    (unit,) = units(model, request(CAPTION, noise(40, 40)))
    assert model.texts([unit])[0].endswith("</think>")
    assert model.recipe(CAPTION, MediaKind.IMAGE) != Chat(id=model.id).recipe(CAPTION, MediaKind.IMAGE)


def test_a_model_that_is_told_to_think_is_held_to_no_form_but_choices() -> None:
    extract = Enrichment(
        capability=Capability.STRUCTURED_EXTRACTION, schema={"type": "object", "properties": {"n": {"type": "integer"}}}
    )
    forms = {}
    for thinking in (None, False, True):
        model = Chat(id="Qwen/Qwen3-VL-8B-Instruct", thinking=thinking)
        asked = [model.prompts(each, MediaKind.IMAGE)[0].reply_form for each in (DETECT, extract, CHOOSE)]
        forms[thinking] = [type(form) for form in asked]
    assert forms[None] == forms[False] == [JsonSchema, JsonSchema, Choices]
    assert forms[True] == [FreeText, FreeText, Choices]


# --- from a spec ------------------------------------------------------------------------------------


def test_an_entry_of_a_spec_is_known_by_the_user_s_own_name(folders: dict[str, Path]) -> None:
    settings = {"system": "chat", "id": str(folders["smolvlm"]), "device": "cpu", "max_new_tokens": LIMIT}
    fast = open_model("fast", settings)
    (reply,) = fast.run([request(CHOOSE, noise(40, 30))])
    assert reply.system == "fast"
