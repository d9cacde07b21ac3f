"""The Qwen-VL line: each generation asked and read in its own form, and the library's own inputs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightflow.blocks.models.contract import Generated, Prompt, ReplyError
from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, RegionsResult, TextResult
from sightflow.schemas.failure import Cause, Failure, ModelError
from sightflow.schemas.geometry import PER_MILLE, PIXELS_SEEN, Box, GeometryError
from sightflow.schemas.masks import decode_mask
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.vision import VisionRequest
from tests.tiny_models import qwen_vl
from tests.tiny_models.families import (
    assert_asked_as_the_library_does,
    blank,
    generator,
    noise,
    noisy_video,
    request,
    units,
)

DETECT = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("cat", "the red dog"))
DETECT_ALL = Enrichment(capability=Capability.OBJECT_DETECTION)
GROUND = Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=("the man in red",))
SEGMENT = Enrichment(capability=Capability.SEGMENTATION, labels=("cat",))
CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)
VIDEO = Enrichment(capability=Capability.VIDEO_CAPTIONING)
CHOOSE = Enrichment(
    capability=Capability.VISUAL_QUESTION_ANSWERING, question="what colour?", choices=("red", "dark blue", "green")
)
EACH = pytest.mark.parametrize("generation", qwen_vl.GENERATIONS)
SIZES = [(1920, 1080), (1080, 1920), (640, 480), (333, 77), (31, 997), (20, 20), (3, 5)]
LIMIT = 10


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: qwen_vl.build(tmp_path_factory.mktemp(name) / name, name) for name in qwen_vl.GENERATIONS}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Qwen2VL]:
    models = {name: Qwen2VL(id=str(folder), max_new_tokens=LIMIT) for name, folder in folders.items()}
    for model in models.values():
        model.prepare()
    return models


def parse(model: Qwen2VL, enrichment: Enrichment, text: str, width: int = 1000, height: int = 500) -> Any:
    prompt = model.prompts(enrichment, MediaKind.IMAGE)[0]
    return model.parse(request(enrichment, blank(width, height)), prompt, text)


def edges(box: Box) -> tuple[float, float, float, float]:
    return (box.x_min, box.y_min, box.x_max, box.y_max)


# --- which generation ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "generation"),
    [
        ("Qwen/Qwen2-VL-2B-Instruct", "qwen2_vl"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl"),
        ("someone/qwen2_5-vl-finetuned", "qwen2_5_vl"),
        ("Qwen/Qwen3-VL-4B-Instruct", "qwen3_vl"),
        ("someone/unheard-of", "qwen2_vl"),
    ],
)
def test_weights_that_are_not_here_are_known_by_their_id(id: str, generation: str) -> None:
    assert Qwen2VL(id=id).known_generation == generation


@EACH
def test_weights_in_a_folder_are_known_by_their_config_whatever_its_name(
    folders: dict[str, Path], tmp_path: Path, generation: str
) -> None:
    elsewhere = tmp_path / "Qwen2-VL-of-mine"
    elsewhere.symlink_to(folders[generation])
    model = Qwen2VL(id=str(elsewhere))
    assert model.known_generation == generation
    assert Qwen2VL(id=str(elsewhere), generation="qwen3_vl").known_generation == "qwen3_vl"


def test_weights_of_another_family_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(ModelError, match="'llava'; known: qwen2_vl"):
        Qwen2VL(id=str(tmp_path)).prompts(DETECT, MediaKind.IMAGE)


# --- what is asked ------------------------------------------------------------------------------


def test_qwen2_vl_is_asked_for_one_label_at_a_time_in_its_own_marks() -> None:
    first, second = Qwen2VL().prompts(DETECT, MediaKind.IMAGE)
    assert "<|object_ref_start|>cat<|object_ref_end|>" in first.text
    assert (first.subject, second.subject) == ("cat", "the red dog")


@pytest.mark.parametrize(("generation", "said"), [("qwen2_5_vl", "in pixels"), ("qwen3_vl", "in 0-1000")])
def test_the_later_ones_are_asked_for_json_in_their_own_units(generation: Any, said: str) -> None:
    (prompt,) = Qwen2VL(generation=generation).prompts(DETECT, MediaKind.IMAGE)
    assert f'"bbox_2d": [x_min, y_min, x_max, y_max] {said}' in prompt.text
    assert "cat; the red dog" in prompt.text


# --- what is said: golden strings -----------------------------------------------------------------


def test_qwen2_vl_marks_boxes_in_thousandths(models: dict[str, Qwen2VL]) -> None:
    text = "<|object_ref_start|>the cat<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>"
    (region,) = parse(models["qwen2_vl"], DETECT, text).regions
    assert region.label == "cat"
    assert edges(region.box) == (100, 100, 300, 200)


@pytest.mark.parametrize(
    "text",
    [
        "<|box_start|>(0,0),(500,1000)<|box_end|><|box_start|>(1,2),(3,4)<|box_end|>",
        "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(0, 0), (500, 1000)<|box_end|>\n"
        "<|object_ref_start|>Cat<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>.",
        "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(0,0),(500,1000)<|box_end|>, "
        "<|box_start|>(1,2),(3,4)<|box_end|>",
        "the cat(0,0),(500,1000)cat(1,2),(3,4)",  # as a server gives it that leaves special tokens out
        "(0,0),(500,1000)\n(1,2),(3,4)",
    ],
)
def test_qwen2_vl_may_name_a_label_once_or_again(models: dict[str, Qwen2VL], text: str) -> None:
    first, second = parse(models["qwen2_vl"], DETECT, text).regions
    assert (first.label, second.label) == ("cat", "cat")
    assert edges(first.box) == (0, 0, 500, 500)


def test_qwen2_vl_names_what_it_found_by_itself(models: dict[str, Qwen2VL]) -> None:
    text = "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"
    assert parse(models["qwen2_vl"], DETECT_ALL, text).regions[0].label == "dog"


@pytest.mark.parametrize("text", ["none", "None.", " none\n"])
def test_qwen2_vl_may_say_that_there_is_none(models: dict[str, Qwen2VL], text: str) -> None:
    assert parse(models["qwen2_vl"], DETECT, text) == RegionsResult(())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The cat is on the left.",
        "<|object_ref_start|>horse<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>",
        "<|box_start|>(1,2),(3,4),(5,6)<|box_end|>",
        "<|box_start|>(1,2),(3,4)",
        "<|box_start|>(1.5,2),(3,4)<|box_end|>",
        "<|box_start|>(1,2),(3,4)<|box_end|> and more",
        "none<|box_start|>(1,2),(3,4)<|box_end|>",
        "The cat is at (1,2),(3,4)",
        "horse(1,2),(3,4)",
    ],
)
def test_qwen2_vl_replies_with_anything_else_in_them_are_not_mended(models: dict[str, Qwen2VL], text: str) -> None:
    with pytest.raises(ReplyError):
        parse(models["qwen2_vl"], DETECT, text)


@pytest.mark.parametrize("numbers", ["(300,200),(100,400)", "(1,1),(1,5)", "(0,0),(1002,5)", "(0,0),(99999,99999)"])
def test_boxes_that_cannot_be_are_not_mended(models: dict[str, Qwen2VL], numbers: str) -> None:
    with pytest.raises(GeometryError):
        parse(models["qwen2_vl"], DETECT, f"<|box_start|>{numbers}<|box_end|>")


def test_qwen2_5_vl_speaks_in_pixels_of_the_picture_as_it_was_resized(models: dict[str, Qwen2VL]) -> None:
    model = models["qwen2_5_vl"]
    assert model.seen_size(blank(1000, 500).pixels.size) == (308, 140)  # 28-pixel cells, at most 50,176 pixels
    text = '```json\n[{"bbox_2d": [77, 35, 154, 70], "label": "cat"}]\n```'
    (region,) = parse(model, DETECT, text).regions
    assert edges(region.box) == pytest.approx((250, 125, 500, 250))


def test_qwen3_vl_speaks_in_thousandths(models: dict[str, Qwen2VL]) -> None:
    (region,) = parse(models["qwen3_vl"], DETECT, '[{"bbox_2d": [77, 35, 154, 70], "label": "cat"}]').regions
    assert edges(region.box) == pytest.approx((77, 17.5, 154, 35))


def test_the_same_words_are_other_places_to_another_generation(models: dict[str, Qwen2VL]) -> None:
    text = '[{"bbox_2d": [77, 35, 154, 70], "label": "cat"}]'
    assert parse(models["qwen2_5_vl"], DETECT, text) != parse(models["qwen3_vl"], DETECT, text)
    with pytest.raises(ReplyError):
        parse(models["qwen2_vl"], DETECT, text)


@EACH
def test_an_outline_becomes_a_mask_of_the_original_s_size(models: dict[str, Qwen2VL], generation: str) -> None:
    model = models[generation]
    width, height = model.seen_size((1000, 500)) if generation == "qwen2_5_vl" else (1000, 1000)
    box = [0, 0, width // 2, height // 2]
    outline = [[0, 0], [width // 2, 0], [width // 2, height // 2], [0, height // 2]]
    text = f'[{{"label": "cat", "bbox_2d": {box}, "polygon": {outline}}}]'
    (region,) = parse(model, SEGMENT, text).regions
    assert decode_mask(region.mask, 1000, 500).sum() == pytest.approx(125_000, rel=0.01)


# --- geometry -----------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_box_comes_back_within_one_native_step(
    models: dict[str, Qwen2VL], generation: str, size: tuple[int, int]
) -> None:
    model, (width, height) = models[generation], size
    box = Box(width * 0.2, height * 0.1, width * 0.9, height * 0.8)
    asked = request(DETECT, blank(width, height))
    space = PIXELS_SEEN if generation == "qwen2_5_vl" else PER_MILLE
    numbers = [round(n) for n in space.from_pixels(box, model.image_transform(asked))]
    text = f'[{{"bbox_2d": {numbers}, "label": "cat"}}]'
    if generation == "qwen2_vl":
        text = "<|box_start|>({},{}),({},{})<|box_end|>".format(*numbers)
    (region,) = parse(model, DETECT, text, width, height).regions
    across, down = model.seen_size(size) if generation == "qwen2_5_vl" else (1000, 1000)
    for back, there, step in zip(edges(region.box), edges(box), (width / across, height / down) * 2, strict=True):
        assert abs(back - there) <= step


@EACH
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_size_seen_is_that_which_the_processor_makes(
    models: dict[str, Qwen2VL], generation: str, size: tuple[int, int]
) -> None:
    model, image = models[generation], blank(*size).pixels
    looks = model._processor.image_processor
    _, down, across = looks(image, return_tensors="pt")["image_grid_thw"][0].tolist()
    assert model.seen_size(image.size) == (across * looks.patch_size, down * looks.patch_size)


def test_boxes_of_a_picture_decoded_at_reduced_scale_are_those_of_the_original(models: dict[str, Qwen2VL]) -> None:
    reduced = DecodedImage(blank(500, 250).pixels, 4000, 2000, "0" * 64)
    model = models["qwen2_5_vl"]
    width, height = model.seen_size(reduced.pixels.size)
    text = f'[{{"bbox_2d": [0, 0, {width}, {height}], "label": "cat"}}]'
    (region,) = model.parse(request(DETECT, reduced), Prompt(""), text).regions
    assert edges(region.box) == (0, 0, 4000, 2000)


def test_a_smaller_budget_of_pixels_is_a_smaller_picture_before_and_after_loading(folders: dict[str, Path]) -> None:
    model = Qwen2VL(id=str(folders["qwen2_5_vl"]), max_pixels=100 * 100)
    before = model.seen_size((1000, 500))
    model.prepare()
    assert model.seen_size(blank(1000, 500).pixels.size) == before == (140, 56)
    assert model.media_inputs(units(model, request(CAPTION, blank(1000, 500))))
    grid = generator(model).inputs(units(model, request(VIDEO, noisy_video(4, 300, 200))))["video_grid_thw"][0]
    assert grid[1:].prod() * 14 * 14 <= 100 * 100


def test_another_budget_of_pixels_is_another_recipe() -> None:
    recipes = {Qwen2VL(max_pixels=n).recipe(CAPTION, MediaKind.IMAGE) for n in (None, 100_000, 200_000)}
    assert len(recipes) == 3


def test_a_picture_of_absurd_shape_is_refused_alone(models: dict[str, Qwen2VL]) -> None:
    replies = models["qwen2_vl"].run([request(CHOOSE, media) for media in (blank(3000, 2), blank(30, 20))])
    assert replies[0].failure and replies[0].failure.cause is Cause.UNSUPPORTED
    assert isinstance(replies[1].outcome, TextResult)


# --- the library's own inputs -----------------------------------------------------------------


@EACH
def test_a_picture_is_asked_about_as_the_library_does_it(models: dict[str, Qwen2VL], generation: str) -> None:
    assert_asked_as_the_library_does(models[generation], request(CAPTION, noise(90, 70)), LIMIT)


@EACH
def test_a_film_is_seen_at_the_times_of_its_frames(models: dict[str, Qwen2VL], generation: str) -> None:
    model, video = models[generation], noisy_video(6, spacing=0.4)
    (unit,) = units(model, request(VIDEO, video))
    inputs = generator(model).inputs([unit])
    if generation == "qwen2_5_vl":
        assert inputs["second_per_grid_ts"][0] == pytest.approx(0.8)  # two frames a step
    if generation == "qwen3_vl":
        words = model._processor.tokenizer.decode(inputs["input_ids"][0])
        assert re.findall(r"<(\d+\.\d) seconds>", words) == ["0.2", "1.0", "1.8"]
    theirs = model._processor(
        text=model.texts([unit]),
        videos=[list(video.frames)],
        do_sample_frames=False,
        video_metadata=[{"frames_indices": [0, 10, 20, 30, 40, 50], "fps": 25.0, "total_num_frames": 60}],
        return_tensors="pt",
    )
    for name in theirs:
        assert torch.equal(torch.as_tensor(inputs[name]), torch.as_tensor(theirs[name])), name


@EACH
def test_a_film_of_one_frame_is_seen_too(models: dict[str, Qwen2VL], generation: str) -> None:
    (reply,) = models[generation].run([request(CHOOSE, noisy_video(1))])
    assert isinstance(reply.outcome, TextResult)


# --- hostile replies ------------------------------------------------------------------------------

PIECES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            *("<|box_start|>", "<|box_end|>", "(1,2),(3,4)", "<|object_ref_start|>cat<|object_ref_end|>", "<script>"),
            *('[{"bbox_2d":', "[1, 2, 3, 4]", "[1e999, NaN]", '"label": "cat"', "}]", "none", "```json"),
            *("[" * 5000, "9" * 400),
        ]
    ),
)


@settings(max_examples=300, deadline=None)
@given(text=st.lists(PIECES, max_size=20).map("".join), generation=st.sampled_from(qwen_vl.GENERATIONS))
def test_any_reply_is_a_valid_result_or_a_failure_with_its_words(text: str, generation: Any) -> None:
    model = Qwen2VL(generation=generation)
    for enrichment in (DETECT, DETECT_ALL, GROUND, SEGMENT, CAPTION, CHOOSE):
        asked: VisionRequest = request(enrichment, blank(640, 480))
        prompts = model.prompts(enrichment, MediaKind.IMAGE)
        reply = model.reply(asked, [(prompt, Generated(text)) for prompt in prompts])
        if isinstance(reply.outcome, Failure):
            assert reply.outcome.cause is Cause.MALFORMED
        elif isinstance(reply.outcome, RegionsResult):
            for region in reply.outcome.regions:
                assert 0 <= region.box.x_min < region.box.x_max <= 640
                assert 0 <= region.box.y_min < region.box.y_max <= 480
        elif enrichment is CHOOSE:
            assert isinstance(reply.outcome, TextResult) and reply.outcome.text in CHOOSE.choices


def test_a_reply_of_a_million_characters_is_read_quickly_enough_to_fail() -> None:
    for text in ("<|box_start|>(1,2),(3,4)<|box_end|>" * 30_000, "[" * 1_000_000, "a" * 1_000_000):
        for generation in qwen_vl.GENERATIONS:
            model: Any = Qwen2VL(generation=generation)
            reply = model.reply(request(DETECT, blank(9, 9)), [(Prompt("", subject="cat"), Generated(text))])
            assert reply.failure is None or reply.failure.cause is Cause.MALFORMED
