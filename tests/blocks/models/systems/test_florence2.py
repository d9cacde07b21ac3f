"""Florence-2: our reading of its replies against the library's own, and nothing dropped in silence."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightflow.blocks.models.contract import Prompt, ReplyError
from sightflow.blocks.models.systems.florence2 import Florence2
from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.infra.demo.scenes import draw_scene
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, RegionsResult, TextResult
from sightflow.schemas.failure import Cause, Failure
from sightflow.schemas.geometry import GeometryError
from sightflow.schemas.masks import decode_mask
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.vision import VisionReply, VisionRequest
from tests.tiny_models.families import loaded

DETECT = Enrichment(capability=Capability.OBJECT_DETECTION)
CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)
GROUND = Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=("a red circle", "a blue star"))
SEGMENT = Enrichment(capability=Capability.SEGMENTATION, labels=("red circle", "green square"))
COUNT = Enrichment(
    capability=Capability.VISUAL_QUESTION_ANSWERING, question="how many shapes are there?", choices=("1", "2", "3", "4")
)


@pytest.fixture(scope="module")
def model() -> Florence2:
    model = Florence2(id=str(MODEL_FOLDER), batch_size=4)
    model.prepare()
    return model


def image(seed: int) -> DecodedImage:
    image = draw_scene(seed).image
    return DecodedImage(image, image.width, image.height, f"{seed:064d}")


def request(enrichment: Enrichment, media: DecodedImage | None = None) -> VisionRequest:
    return VisionRequest(
        "s3://b/x.png", enrichment, media or DecodedImage(Image.new("RGB", (640, 480)), 640, 480, "0" * 64)
    )


def parse(enrichment: Enrichment, text: str, subject: str | None = None) -> Any:
    return Florence2().parse(request(enrichment), Prompt("", subject=subject), text)


def test_boxes_are_bin_centres_in_pixels_of_the_original() -> None:
    result = parse(
        DETECT, "</s><s>red circle<loc_100><loc_200><loc_300><loc_400>blue star<loc_0><loc_0><loc_999><loc_999></s>"
    )
    first, second = result.regions
    assert first.label == "red circle"
    edges = (first.box.x_min, first.box.y_min, first.box.x_max, first.box.y_max)
    assert edges == pytest.approx((64.32, 96.24, 192.32, 192.24))
    assert second.box.x_max < 640 and second.box.y_max < 480


def test_one_label_may_have_several_boxes() -> None:
    result = parse(DETECT, "dog<loc_1><loc_1><loc_9><loc_9><loc_20><loc_20><loc_30><loc_30>")
    assert [r.label for r in result.regions] == ["dog", "dog"]


def test_no_box_is_an_answer() -> None:
    assert parse(DETECT, "</s><s></s>") == RegionsResult(())


@pytest.mark.parametrize(
    "text",
    [
        "dog<loc_1><loc_2><loc_3>",
        "dog<loc_1><loc_2><loc_3><loc_4><loc_5>",
        "just words",
        "dog<loc_1><loc_2><loc_3><loc_4> and more words",
        "<loc_1><loc_2><loc_3><loc_4>",
        "dog<poly><loc_1><loc_2><loc_3><loc_4></poly>",
    ],
)
def test_what_is_no_list_of_boxes_is_malformed(text: str) -> None:
    with pytest.raises(ReplyError):
        parse(DETECT, text)


@pytest.mark.parametrize("text", ["dog<loc_9><loc_1><loc_1><loc_9>", "dog<loc_5><loc_1><loc_5><loc_9>"])
def test_inverted_and_empty_boxes_are_never_mended(text: str) -> None:
    with pytest.raises(GeometryError):
        parse(DETECT, text)


def test_labels_beyond_ascii_are_kept() -> None:
    assert parse(DETECT, "grüner Kreis 圆<loc_1><loc_1><loc_9><loc_9>").regions[0].label == "grüner Kreis 圆"


def test_a_polygon_becomes_a_mask_of_the_original_s_size() -> None:
    (region,) = parse(SEGMENT, "<loc_100><loc_100><loc_500><loc_100><loc_500><loc_500>", "red circle").regions
    mask = decode_mask(region.mask, 640, 480)
    assert mask.sum() == pytest.approx(0.5 * 256 * 192, rel=0.02)


OUTLINE = "<loc_100><loc_100><loc_500><loc_100><loc_500><loc_500>"
POINT, LINE = "<loc_7>" * 6, "<loc_1><loc_1><loc_500><loc_500><loc_900><loc_900>"


@pytest.mark.parametrize("nothing", [POINT, LINE, f"<poly>{POINT}</poly><poly>{LINE}</poly>", f"{POINT}<sep>{LINE}"])
def test_an_outline_that_encloses_nothing_is_no_region(nothing: str) -> None:
    assert parse(SEGMENT, nothing, "red circle") == RegionsResult(())


@pytest.mark.parametrize("text", [f"{POINT}<sep>{OUTLINE}", f"<poly>{OUTLINE}</poly><poly>{LINE}</poly>"])
def test_and_takes_nothing_from_what_is_outlined_beside_it(text: str) -> None:
    assert parse(SEGMENT, text, "red circle") == parse(SEGMENT, OUTLINE, "red circle")


PIECES = st.sampled_from([*"ab <>/", "<loc_5>", "<loc_900>", "<poly>", "</poly>", "<sep>", "</s>"])


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_any_reply_is_a_valid_result_or_a_failure_with_its_words(text: str) -> None:
    from sightflow.blocks.models.contract import Generated

    for enrichment in (DETECT, SEGMENT, CAPTION, COUNT):
        prompts = Florence2().prompts(enrichment, MediaKind.IMAGE)
        reply = Florence2().reply(request(enrichment), [(p, Generated(text)) for p in prompts])
        if isinstance(reply.outcome, Failure):
            assert reply.outcome.cause is Cause.MALFORMED
            assert reply.outcome.raw_reply is not None
        elif isinstance(reply.outcome, RegionsResult):
            for region in reply.outcome.regions:
                assert 0 <= region.box.x_min < region.box.x_max <= 640
                assert 0 <= region.box.y_min < region.box.y_max <= 480


def said(replies: list[VisionReply]) -> list[Any]:
    return [(reply.uri, reply.enrichment, reply.outcome, reply.raw_reply, reply.usage) for reply in replies]


def test_a_batch_says_exactly_what_single_calls_say(model: Florence2) -> None:
    requests = [
        VisionRequest(f"s3://b/{seed}", enrichment, media)
        for seed, media in ((seed, image(seed)) for seed in range(9))
        for enrichment in (DETECT, CAPTION, GROUND, SEGMENT, COUNT)
    ]
    single = [reply for r in requests for reply in said(model.run([r]))]
    assert said(model.run(requests)) == single
    backwards = said(model.run(requests[::-1]))[::-1]
    assert backwards == single


def test_it_says_what_the_library_says(model: Florence2) -> None:
    for seed in range(4):
        media = image(seed)
        (reply,) = model.run([VisionRequest("s3://b/x", DETECT, media)])
        inputs = model._processor(text="<OD>", images=media.pixels, return_tensors="pt")
        with torch.inference_mode():
            tokens = loaded(model).generate(**inputs, max_new_tokens=512, do_sample=False, num_beams=1)
        text = model._processor.batch_decode(tokens, skip_special_tokens=False)[0]
        read = model._processor.post_process_generation(text, task="<OD>", image_size=(media.width, media.height))[
            "<OD>"
        ]
        if isinstance(reply.outcome, Failure):
            continue  # the library drops what it cannot read; that is just what is not done here
        assert [r.label for r in reply.outcome.regions] == read["labels"]
        for region, box in zip(reply.outcome.regions, read["bboxes"], strict=True):
            ours = (region.box.x_min, region.box.y_min, region.box.x_max, region.box.y_max)
            assert ours == pytest.approx(box, abs=1.0)


def test_choices_are_never_left_even_by_a_question_that_makes_no_sense(model: Florence2) -> None:
    odd = COUNT.model_copy(update={"question": "left of above the the?", "choices": ("yes", "no", "red circle")})
    replies = model.run([VisionRequest(f"s3://b/{seed}", odd, image(seed)) for seed in range(6)])
    for reply in replies:
        assert isinstance(reply.outcome, TextResult)
        assert reply.outcome.text in odd.choices


def test_the_same_weights_elsewhere_are_the_same_recipe_and_other_weights_are_not(tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(MODEL_FOLDER, tmp_path / MODEL_FOLDER.name)
    here = Florence2(id=str(MODEL_FOLDER)).recipe(DETECT, MediaKind.IMAGE)
    assert Florence2(id=str(copy)).recipe(DETECT, MediaKind.IMAGE) == here
    weights = copy / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert Florence2(id=str(copy)).recipe(DETECT, MediaKind.IMAGE) != here


def test_missing_weights_say_what_to_do() -> None:
    from sightflow.schemas.failure import ModelError

    with pytest.raises(ModelError, match="sightflow models pull florence-2"):
        Florence2(id="nobody/has-this", revision="main").prepare()
    assert not math.isnan(Florence2().memory_gib)
