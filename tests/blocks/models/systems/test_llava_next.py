"""LLaVA-NeXT: the library's own inputs in tiles, and boxes as fractions, read strictly."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightflow.blocks.models.contract import Generated, Prompt, ReplyError
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.replies.llava_boxes import FRACTIONS
from sightflow.blocks.models.systems.instruct_blip import InstructBlip
from sightflow.blocks.models.systems.llava_next import LlavaNext
from sightflow.blocks.models.systems.video_llava import VideoLlava
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, RegionsResult, TextResult
from sightflow.schemas.failure import Cause, Failure
from sightflow.schemas.geometry import Box, GeometryError
from tests.tiny_models import llava_next
from tests.tiny_models.families import (
    assert_asked_as_the_library_does,
    blank,
    generator,
    noise,
    noisy_video,
    request,
    units,
)

CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)
GROUND = Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=("a red circle", "the blue star"))
DETECT = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("cat",))
CHOOSE = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="colour?", choices=("red", "dark blue"))
SIZES = [(640, 480), (480, 640), (1920, 1080), (333, 77), (3, 5)]
LIMIT = 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LlavaNext:
    model = LlavaNext(id=str(llava_next.build(tmp_path_factory.mktemp("llava") / "tiny")), max_new_tokens=LIMIT)
    model.prepare()
    return model


def parse(text: str, width: int = 640, height: int = 480) -> Any:
    return LlavaNext().parse(request(GROUND, blank(width, height)), Prompt("", subject="a red circle"), text)


def edges(box: Box) -> tuple[float, float, float, float]:
    return (box.x_min, box.y_min, box.x_max, box.y_max)


@pytest.mark.parametrize("size", [(56, 56), (112, 50), (40, 170), (200, 190)], ids=str)
def test_a_picture_is_asked_about_as_the_library_does_it(model: LlavaNext, size: tuple[int, int]) -> None:
    assert_asked_as_the_library_does(model, request(CAPTION, noise(*size)), LIMIT)


def test_a_template_that_writes_the_first_token_itself_does_not_get_it_twice(model: LlavaNext) -> None:
    (unit,) = units(model, request(CAPTION, noise(56, 56)))
    wanted = generator(model).inputs([unit])["input_ids"].tolist()
    template, begin = model._processor.chat_template, model._processor.tokenizer.bos_token
    assert wanted[0].count(model._processor.tokenizer.bos_token_id) == 1
    model._processor.chat_template = begin + template
    try:
        ids = generator(model).inputs([unit])["input_ids"].tolist()
    finally:
        model._processor.chat_template = template
    assert ids[0].count(model._processor.tokenizer.bos_token_id) == 1


def test_older_checkpoints_whose_processor_does_not_know_its_patches_are_told(tmp_path: Any) -> None:
    import json

    folder = llava_next.build(tmp_path / "old")
    config = json.loads((folder / "processor_config.json").read_text())
    config |= {"patch_size": None, "vision_feature_select_strategy": None}
    (folder / "processor_config.json").write_text(json.dumps(config))
    model = LlavaNext(id=str(folder), max_new_tokens=30)
    model.prepare()
    assert isinstance(model.run([request(CHOOSE, noise(60, 40))])[0].outcome, TextResult)


def test_a_film_is_not_for_it(model: LlavaNext) -> None:
    assert model.unsupported_reason(Enrichment(capability=Capability.VIDEO_CAPTIONING), MediaKind.VIDEO)
    assert model.unsupported_reason(DETECT, MediaKind.IMAGE) == "llava-next cannot do object_detection (rated 0)"


def test_each_phrase_is_asked_with_the_question_it_was_trained_with() -> None:
    first, second = LlavaNext().prompts(GROUND, MediaKind.IMAGE)
    assert first.text.endswith("the region this sentence describes: a red circle.")
    assert (first.subject, second.subject) == ("a red circle", "the blue star")


def test_a_box_in_fractions_becomes_pixels() -> None:
    (region,) = parse("[0.25, 0.5, 0.75, 1.0]").regions
    assert region.label == "a red circle"
    assert edges(region.box) == (160, 240, 480, 480)


def test_several_boxes_are_several_regions() -> None:
    assert len(parse("[0.1, 0.1, 0.2, 0.2], [0.3,0.3,0.4,.4]\n[0, 0, 1, 1].").regions) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It is on the left.",
        "[0.1, 0.2, 0.3]",
        "[0.1, 0.2, 0.3, 0.4, 0.5]",
        "[0.1, 0.2, 0.3, 0.4] is the box",
        "The box is [0.1, 0.2, 0.3, 0.4]",
        "[,,,]",
        "[., ., ., .]",
        "[-0.1, 0, 1, 1]",
        "[1e-1, 0, 1, 1]",
        "[a, b, c, d]",
    ],
)
def test_a_reply_with_anything_else_in_it_is_not_mended(text: str) -> None:
    with pytest.raises(ReplyError):
        parse(text)


@pytest.mark.parametrize(
    "text", ["[0.5, 0.1, 0.4, 0.2]", "[0.1, 0.1, 0.1, 0.2]", "[0, 0, 1.02, 1]", "[100, 50, 300, 200]"]
)
def test_a_box_that_cannot_be_is_not_mended(text: str) -> None:
    with pytest.raises(GeometryError):
        parse(text)


def test_an_edge_beyond_the_picture_by_one_step_is_clipped() -> None:
    (region,) = parse("[0, 0, 1.01, 1]").regions
    assert edges(region.box) == (0, 0, 640, 480)


# Shared with the two other systems that speak in fractions.
SPEAK_IN_FRACTIONS = pytest.mark.parametrize("adapter", [LlavaNext, VideoLlava, InstructBlip])


@SPEAK_IN_FRACTIONS
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_box_comes_back_within_one_native_step(adapter: type[OpenWeightsModel], size: tuple[int, int]) -> None:
    model: Any = adapter()
    width, height = size
    side = min(width, height)
    seen_width, seen_height = (side, side) if adapter is VideoLlava else (width, height)
    left, top = (width - seen_width) / 2, (height - seen_height) / 2
    box = Box(left + 0.2 * seen_width, top + 0.1 * seen_height, left + 0.9 * seen_width, top + 0.8 * seen_height)
    asked = request(GROUND, blank(width, height))
    numbers = [round(n, 2) for n in FRACTIONS.from_pixels(box, model.image_transform(asked))]
    (region,) = model.parse(asked, Prompt("", subject="a red circle"), str(numbers)).regions
    steps = (0.01 * seen_width, 0.01 * seen_height) * 2
    for back, there, step in zip(edges(region.box), edges(box), steps, strict=True):
        assert abs(back - there) <= step


PIECES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["[0.1, 0.2, 0.3, 0.4]", "[", "]", ",", "0.5", "9" * 400, "1e999", "NaN", "<script>", "red", " "]),
)


@SPEAK_IN_FRACTIONS
@settings(max_examples=150, deadline=None)
@given(text=st.lists(PIECES, max_size=15).map("".join))
def test_any_reply_is_a_valid_result_or_a_failure_with_its_words(adapter: type[OpenWeightsModel], text: str) -> None:
    model: Any = adapter()
    for enrichment in (GROUND, CAPTION, CHOOSE) + ((DETECT,) if adapter is VideoLlava else ()):
        prompts = model.prompts(enrichment, MediaKind.IMAGE)
        reply = model.reply(request(enrichment, blank(640, 480)), [(prompt, Generated(text)) for prompt in prompts])
        if isinstance(reply.outcome, Failure):
            assert reply.outcome.cause is Cause.MALFORMED
        elif isinstance(reply.outcome, RegionsResult):
            for region in reply.outcome.regions:
                assert 0 <= region.box.x_min < region.box.x_max <= 640
                assert 0 <= region.box.y_min < region.box.y_max <= 480


@SPEAK_IN_FRACTIONS
@pytest.mark.parametrize(
    "text", ["[0.1, 0.2, 0.3, 0.4]" * 50_000, "[" * 1_000_000, "0" * 1_000_000, "[0" + " " * 999_999]
)
def test_a_reply_of_a_million_characters_is_a_failure(adapter: type[OpenWeightsModel], text: str) -> None:
    reply = adapter().reply(request(GROUND, blank(9, 9)), [(Prompt("", subject="cat"), Generated(text))])
    assert reply.failure and reply.failure.cause is Cause.MALFORMED


def test_a_whole_film_given_by_mistake_costs_its_own_item(model: LlavaNext) -> None:
    ask = Enrichment(capability=Capability.VISUAL_REASONING, question="why?")
    video, image = request(ask, noisy_video(2)), request(CHOOSE, noise(40, 30))
    with torch.inference_mode():
        replies = model.open_engine().generate(units(model, video, image))
    assert isinstance(replies[0], Failure) and replies[0].cause is Cause.UNSUPPORTED
    assert isinstance(replies[1], Generated)
