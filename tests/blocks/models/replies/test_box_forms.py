"""Each form in which chat models write boxes: golden replies, round trips into pixels, and what is not mended."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightflow.blocks.models.contract import Prompt, ReplyError
from sightflow.blocks.models.replies.box_forms import BOX_FORMS
from sightflow.blocks.models.reply_forms import JsonSchema
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, Region
from sightflow.schemas.geometry import Box, GeometryError, ImageTransform
from sightflow.schemas.masks import decode_mask

DETECT = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("cat",))
TWO = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("cat", "dog"))
ALL = Enrichment(capability=Capability.OBJECT_DETECTION)
GROUND = Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=("the cat",))
SEGMENT = Enrichment(capability=Capability.SEGMENTATION, labels=("cat",))
TRACK = Enrichment(capability=Capability.OBJECT_TRACKING, labels=("cat",))
SIZES = [(640, 480), (480, 640), (4000, 3000), (333, 77), (61, 997)]
EXACT = 1e-9

Numbers = Sequence[float]
WRITTEN: dict[str, Callable[[Numbers], str]] = {
    "thousandths": lambda n: json.dumps([{"bbox_2d": list(n), "label": "cat"}]),
    "thousandths_y_first": lambda n: json.dumps([{"box_2d": list(n), "label": "cat"}]),
    "pixels": lambda n: json.dumps([{"bbox_2d": list(n), "label": "cat"}]),
    "fractions": lambda n: json.dumps([{"box": list(n), "label": "cat"}]),
    "marked": lambda n: "<|box_start|>({},{}),({},{})<|box_end|>".format(*n),
    "referred": lambda n: f"<ref>cat</ref><box>[{list(n)}]</box>",
    "loc": lambda n: "".join(f"<loc{round(number):04d}>" for number in n) + " cat",
}


def read(form: str, text: str, size: tuple[int, int] = (1000, 500), enrichment: Enrichment = DETECT) -> list[Region]:
    prompt = BOX_FORMS[form].prompts(enrichment, MediaKind.IMAGE, 100)[0]
    return list(BOX_FORMS[form].read(prompt, text, enrichment, ImageTransform.whole(*size)).regions)


def edges(region: Region) -> tuple[float, ...]:
    return (region.box.x_min, region.box.y_min, region.box.x_max, region.box.y_max)


# --- golden replies: a picture of 1000 x 500 pixels, a cat from (100, 50) to (300, 200) -------------------------

GOLDEN = [
    ("thousandths", '```json\n[{"bbox_2d": [100, 100, 300, 400], "label": "cat"}]\n```'),
    ("thousandths_y_first", '[{"box_2d": [100, 100, 400, 300], "label": "cat"}]'),
    ("pixels", '[{"bbox_2d": [100, 50, 300, 200], "label": "cat"}]'),
    ("fractions", '[{"label": "cat", "box": [0.1, 0.1, 0.3, 0.4]}]'),
    ("marked", "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(100,100),(300,400)<|box_end|>"),
    ("referred", "<ref>the cat</ref><box>[[100, 100, 300, 400]]</box>"),
    ("referred", "[[100, 100, 300, 400]]"),
]


@pytest.mark.parametrize(("form", "text"), GOLDEN)
def test_a_reply_as_the_family_writes_it_is_in_pixels_of_the_original(form: str, text: str) -> None:
    (region,) = read(form, text)
    assert region.label == "cat"
    assert edges(region) == pytest.approx((100, 50, 300, 200))


def test_location_tokens_are_y_first_and_the_middles_of_1024_bins() -> None:
    first, second = read("loc", "<loc0000><loc0511><loc1023><loc0767> cat ; <loc0000><loc0000><loc0001><loc0001> cat")
    assert edges(first) == pytest.approx((511.5 / 1.024, 0.5 / 2.048, 767.5 / 1.024, 1023.5 / 2.048))
    assert edges(second) == pytest.approx((0.5 / 1.024, 0.5 / 2.048, 1.5 / 1.024, 1.5 / 2.048))


@pytest.mark.parametrize(
    "text",
    [
        '<points coords="1 1 385 412 2 507 413">cats</points>',
        '<points coords="1 1 385 412 2 507 413"/>',
        '<points x1="38.5" y1="41.2" x2="50.7" y2="41.3" alt="cats">cats</points>',
        '<point x="38.5" y="41.2" alt="cat">cat</point> <point x="50.7" y="41.3" alt="cat">cat</point>',
    ],
)
def test_a_point_is_the_middle_of_a_box_of_one_step(text: str) -> None:
    first, second = read("points", text)
    middles = [((r.box.x_min + r.box.x_max) / 2, (r.box.y_min + r.box.y_max) / 2) for r in (first, second)]
    assert middles == [pytest.approx((385, 206)), pytest.approx((507, 206.5))]
    assert (first.box.x_max - first.box.x_min, first.box.y_max - first.box.y_min) == pytest.approx((1, 1))


def test_a_point_in_a_large_picture_is_a_step_and_at_its_edge_within_it() -> None:
    (region,) = read("points", '<points coords="1 1 1000 0"/>', (8000, 4000))
    assert edges(region) == (7996.0, 0.0, 8000.0, 2.0)


# --- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("form", WRITTEN)
def test_a_box_comes_back_within_one_native_step(form: str, size: tuple[int, int]) -> None:
    width, height = size
    box = Box(0.2 * width, 0.1 * height, 0.9 * width, 0.8 * height)
    space, transform = BOX_FORMS[form].space, ImageTransform.whole(width, height)
    digits = 2 if space.scale == 1.0 else None
    numbers = [round(n, digits) for n in space.from_pixels(box, transform)]
    (region,) = read(form, WRITTEN[form](numbers), size)
    step = [space.quantum * (1.0 if space.scale is None else side / space.scale) for side in size] * 2
    wanted = (box.x_min, box.y_min, box.x_max, box.y_max)
    assert all(abs(a - b) <= s + EXACT for a, b, s in zip(edges(region), wanted, step, strict=True))


def test_pixels_are_those_of_the_picture_as_it_was_seen() -> None:
    form = BOX_FORMS["pixels"]
    prompt = form.prompts(DETECT, MediaKind.IMAGE, 100)[0]
    transform = ImageTransform.resized(4000, 3000, 400, 300)
    (region,) = form.read(prompt, '[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]', DETECT, transform).regions
    assert edges(region) == pytest.approx((100, 200, 300, 400))


def test_outlines_in_json_are_masks_and_x_first_where_boxes_are_y_first() -> None:
    polygon = [[100, 100], [300, 100], [300, 400], [100, 400]]
    text = json.dumps([{"label": "cat", "box_2d": [100, 100, 400, 300], "polygon": polygon}])
    (region,) = read("thousandths_y_first", text, enrichment=SEGMENT)
    assert region.mask is not None
    assert decode_mask(region.mask, 1000, 500).sum() == pytest.approx(200 * 150, rel=0.02)


# --- what is asked, and what cannot be ------------------------------------------------------------


@pytest.mark.parametrize("form", BOX_FORMS)
def test_one_question_in_json_or_one_a_label(form: str) -> None:
    prompts = BOX_FORMS[form].prompts(TWO, MediaKind.IMAGE, 100)
    if BOX_FORMS[form].in_json:
        (prompt,) = prompts
        assert isinstance(prompt.reply_form, JsonSchema)
        properties = prompt.reply_form.schema["items"]["properties"]
        assert properties["label"]["enum"] == ["cat", "dog"] and BOX_FORMS[form].key in properties
    else:
        assert [prompt.subject for prompt in prompts] == ["cat", "dog"]
        about = BOX_FORMS[form].form_about
        assert [prompt.reply_form for prompt in prompts] == [about("cat"), about("dog")]


def test_the_numbers_of_json_are_those_of_the_form() -> None:
    numbers = {}
    for form in BOX_FORMS.values():
        (reply_form, *_) = (prompt.reply_form for prompt in form.prompts(TWO, MediaKind.IMAGE, 100))
        if isinstance(reply_form, JsonSchema):
            number = reply_form.schema["items"]["properties"][form.key]["items"]
            numbers[form.key, form.space.scale] = number["type"], number["maximum"]
    assert numbers == {
        ("bbox_2d", 1000.0): ("integer", 1000),
        ("box_2d", 1000.0): ("integer", 1000),
        ("bbox_2d", None): ("integer", 99_999),
        ("box", 1.0): ("number", 1),
    }


def test_a_form_says_what_it_cannot_give() -> None:
    refused = {
        form: [e.capability.value for e in (ALL, SEGMENT, TRACK) if BOX_FORMS[form].refusal(e)] for form in BOX_FORMS
    }
    everything = "object_detection"
    assert refused == {
        **{form: [] for form in ("thousandths", "thousandths_y_first", "pixels", "fractions")},
        **{form: [everything, "segmentation"] for form in ("marked", "referred", "loc")},
        "points": [everything, "segmentation", "object_tracking"],
    }


# --- what is not mended ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["points", "loc", "referred", "marked"])
def test_none_is_no_place_and_silence_is_malformed(form: str) -> None:
    assert read(form, "none") == []
    for text in ("", "I see a cat.", "none, I think, or"):
        with pytest.raises(ReplyError):
            read(form, text)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("points", '<points coords="1 1 385">cat</points>'),
        ("points", '<points coords="1 1 385 412">dog</points>'),
        ("points", '<points coords="2 1 385 412">cat</points>'),
        ("points", 'Here: <points coords="1 1 385 412">cat</points>'),
        ("points", '<point x="38.5" alt="cat">cat</point>'),
        ("loc", "<loc0100><loc0100><loc0200> cat"),
        ("loc", "<loc0100><loc0100><loc0200><loc0200> dog"),
        ("loc", "<loc0100><loc0100><loc0200><loc0200><loc0300> cat"),
        ("referred", "<ref>dog</ref><box>[[1, 2, 3, 4]]</box>"),
        ("referred", "<ref>cat</ref><box>[[1, 2, 3]]</box>"),
        ("referred", "<ref>cat</ref><box>[[1, 2, 3, 4], 5]</box>"),
        ("thousandths", '[{"box_2d": [1, 2, 3, 4], "label": "cat"}]'),
    ],
)
def test_a_reply_of_another_shape_is_malformed(form: str, text: str) -> None:
    with pytest.raises(ReplyError):
        read(form, text)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("points", '<points coords="1 1 1385 412">cat</points>'),
        ("points", '<point x="138.5" y="10" alt="cat">cat</point>'),
        ("loc", "<loc0300><loc0100><loc0200><loc0200> cat"),
        ("loc", "<loc0000><loc0000><loc0200><loc1030> cat"),
        ("referred", "<box>[[1, 2, 1, 4]]</box>"),
        ("referred", "<box>[[1, 2, 1100, 4]]</box>"),
    ],
)
def test_a_place_that_cannot_be_is_not_mended(form: str, text: str) -> None:
    with pytest.raises(GeometryError):
        read(form, text)


PIECES = st.sampled_from(
    [
        *('<points coords="1', " 1 385 412", '">', "cat</points>", '<point x="1" y="2"', ' alt="cat">cat</point>'),
        *("<loc0001>", "<loc1023>", " cat", ";", "<ref>cat</ref>", "<box>[[1, 2, 3, 4]]</box>", "[[", "]]", "none"),
        *("9" * 500, " " * 500, "<think>", "</think>", "\u0000", "[1,2,3,4]"),
    ]
)


@given(text=st.lists(PIECES, max_size=12).map("".join), form=st.sampled_from(["points", "loc", "referred"]))
def test_any_reply_is_boxes_within_the_picture_or_an_error(text: str, form: str) -> None:
    try:
        regions = read(form, text, (640, 480))
    except (ReplyError, GeometryError):
        return
    for region in regions:
        assert region.label == "cat"
        assert 0 <= region.box.x_min < region.box.x_max <= 640 and 0 <= region.box.y_min < region.box.y_max <= 480


def test_a_reply_of_a_million_characters_is_read_or_refused() -> None:
    hostile: Any = (
        '<points coords="1' + " 1 1 1" * 200_000,
        "<loc0001>" * 120_000,
        "[[" + "1," * 500_000,
        "<ref>" * 200_000,
    )
    for text in hostile:
        for form in ("points", "loc", "referred"):
            with pytest.raises((ReplyError, GeometryError)):
                BOX_FORMS[form].read(Prompt("", subject="cat"), text, DETECT, ImageTransform.whole(9, 9))
