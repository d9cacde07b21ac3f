"""Every hosted system, every image capability, over the real SDK and real HTTP: the right answer in the right place."""

import pytest
from google.genai import types
from PIL import Image

from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import FieldsResult, RegionsResult, TextResult
from sightflow.schemas.geometry import Box
from sightflow.schemas.masks import decode_mask
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.vision import VisionRequest
from tests.loopback.hosted_systems import (
    ALL,
    ASK,
    CAPTION,
    CHOOSE,
    DETECT,
    EXTRACT,
    GEMINI,
    GEMINI_OLD,
    GENERATIONS,
    GPT,
    GPT_NEXT,
    GROUND,
    KEPT,
    QWEN,
    QWEN_OLD,
    REASON,
    SEGMENT,
    SYSTEMS,
    image_with_box,
    mask_png,
    named,
    perfect,
    request,
    seen_box,
)
from tests.loopback.server import Say

BOX = (100.0, 120.0, 300.0, 360.0)


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
def test_serves_every_capability_that_is_not_rated_0(system) -> None:
    model = system.model(id=system.id)
    served = {e.capability for e in ALL if model.unsupported_reason(e, MediaKind.IMAGE) is None}
    assert served == {c for c in model.rating.can if MediaKind.IMAGE in c.media_kinds}


@pytest.mark.parametrize("system", GENERATIONS, ids=named)
def test_answers_every_capability(system) -> None:
    with system.on_loopback(perfect(system)) as provider:
        image = image_with_box((640, 480), BOX)
        replies = system.connect(provider).run([request(enrichment, image) for enrichment in ALL])
    assert provider.complaints == []
    assert [reply.failure for reply in replies] == [None] * len(ALL)
    outcomes = {enrichment: reply.outcome for enrichment, reply in zip(ALL, replies, strict=True)}
    for enrichment in (CAPTION, ASK, REASON):
        assert isinstance(outcomes[enrichment], TextResult)
        assert outcomes[enrichment].text.startswith("A red box")
    assert outcomes[CHOOSE] == TextResult("yes")
    assert outcomes[EXTRACT] == FieldsResult(KEPT)
    for enrichment, label in ((DETECT, "box"), (GROUND, "the red box"), (SEGMENT, "box")):
        result = outcomes[enrichment]
        assert isinstance(result, RegionsResult)
        (region,) = result.regions
        assert region.label == label
        assert region.box.iou(Box(*BOX)) > 0.97
    mask = decode_mask(outcomes[SEGMENT].regions[0].mask, 640, 480)
    inside = mask[122:358, 102:298]
    assert inside.mean() > 0.99
    assert mask.sum() < 1.05 * 200 * 240


@pytest.mark.parametrize("system", GENERATIONS, ids=named)
@pytest.mark.parametrize(
    "size, box",
    [
        ((1920, 1080), (311, 222, 1500, 900)),
        ((1080, 1920), (5, 1700, 400, 1915)),
        ((4000, 3000), (1000, 1000, 1400, 1250)),
        ((64, 48), (10, 8, 40, 40)),
        ((2000, 400), (900, 100, 1100, 300)),
    ],
    ids=["landscape", "portrait", "large", "tiny", "panorama"],
)
def test_a_known_box_comes_back_in_original_pixels(system, size, box) -> None:
    with system.on_loopback(perfect(system)) as provider:
        (reply,) = system.connect(provider).run([request(DETECT, image_with_box(size, box))])
        (received,) = provider.received
    (region,) = reply.outcome.regions
    # One native step, or one pixel of the picture that was sent, in pixels of the original: whichever is coarser.
    sent = received.images[0].size
    for found, true, axis in zip(
        (region.box.x_min, region.box.y_min, region.box.x_max, region.box.y_max), box, (0, 1, 0, 1), strict=True
    ):
        step = max(size[axis] / 1000, size[axis] / sent[axis])
        assert abs(found - true) <= step + 0.51 * size[axis] / 1000, (sent, region.box)


@pytest.mark.parametrize("system", GENERATIONS, ids=named)
def test_a_picture_decoded_at_reduced_scale_gives_boxes_of_the_original(system) -> None:
    small = image_with_box((800, 600), (200, 150, 400, 450))
    media = DecodedImage(small, 3200, 2400, "0" * 64)
    with system.on_loopback(perfect(system)) as provider:
        (reply,) = system.connect(provider).run([VisionRequest("s3://b/x", DETECT, media)])
    (region,) = reply.outcome.regions
    assert region.box.iou(Box(800, 600, 1600, 1800)) > 0.98


@pytest.mark.parametrize("system", [GEMINI, GEMINI_OLD], ids=named)
def test_gemini_masks_are_read_in_both_forms_whatever_was_asked(system) -> None:
    half = Image.new("L", (20, 20), 0)
    half.paste(255, (0, 0, 10, 20))
    entries = [
        {"label": "box", "box_2d": [250, 250, 750, 750], "mask": mask_png(half)},
        {"label": "box", "box_2d": [250, 250, 750, 750], "mask": [[250, 250], [500, 250], [500, 750], [250, 750]]},
    ]
    with system.on_loopback(lambda _: Say(system.regions(entries))) as provider:
        (reply,) = system.connect(provider).run([request(SEGMENT, image_with_box((640, 480), BOX))])
    drawn, outlined = (decode_mask(region.mask, 640, 480) for region in reply.outcome.regions)
    assert drawn[240, 170] and not drawn[240, 400] and not drawn[100, 170]
    assert (drawn & outlined).sum() / (drawn | outlined).sum() > 0.95


@pytest.mark.parametrize("mask", ["<start_of_mask><seg_4><seg_20>", "data:image/png;base64,AAAA", "", "ÿ"])
def test_a_mask_in_no_known_form_is_malformed(mask) -> None:
    entry = {"label": "box", "box_2d": [250, 250, 750, 750], "mask": mask}
    with GEMINI_OLD.on_loopback(lambda _: Say(GEMINI_OLD.regions([entry]))) as provider:
        (reply,) = GEMINI_OLD.connect(provider).run([request(SEGMENT)])
    assert reply.failure.cause == "malformed"
    assert reply.failure.raw_reply


@pytest.mark.parametrize(
    "system, size, sent",
    [
        (GPT, (4000, 3000), (1024, 768)),
        (GPT, (640, 480), (640, 480)),
        (GPT_NEXT, (4000, 2000), (2048, 1024)),
        (GEMINI, (6144, 3000), (3072, 1500)),
        (QWEN, (1000, 500), (992, 512)),
        (QWEN_OLD, (4000, 3000), (1148, 840)),
    ],
)
def test_pictures_are_sent_no_larger_than_they_are_used(system, size, sent) -> None:
    with system.on_loopback(perfect(system)) as provider:
        system.connect(provider).run([request(CAPTION, image_with_box(size, (100, 100, 300, 300)))])
        assert provider.received[0].images[0].size == sent


@pytest.mark.parametrize("size", [(100, 80), (1000, 800)], ids=["as PNG", "as JPEG"])
def test_nothing_but_pixels_is_sent(size) -> None:
    image = image_with_box(size, (10, 10, 50, 50))
    image.info |= {"comment": b"taken at home", "icc_profile": b"profile", "dpi": (300, 300)}
    with GPT.on_loopback(perfect(GPT)) as provider:
        GPT.connect(provider).run([request(CAPTION, image)])
        assert not {"comment", "icc_profile", "exif", "dpi"} & set(provider.received[0].images[0].info)


def test_low_detail_is_sent_small() -> None:
    with GPT.on_loopback(perfect(GPT)) as provider:
        GPT.connect(provider, detail="low").run([request(CAPTION, image_with_box((2000, 1000), (0, 0, 900, 900)))])
        (received,) = provider.received
    assert received.images[0].size == (512, 256)
    assert received.body["messages"][0]["content"][0]["image_url"]["detail"] == "low"


def test_a_question_that_names_a_file_is_sent_as_words(tmp_path, monkeypatch) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("private")
    monkeypatch.chdir(tmp_path)
    questions = [str(secret), f"file://{secret}", "secret.txt", "oss://bucket/key", "~/secret.txt"]
    asked = [CAPTION.model_copy(update={"prompt": question}) for question in questions]
    with QWEN.on_loopback(lambda _: Say("words")) as provider:
        replies = QWEN.connect(provider).run([request(enrichment) for enrichment in asked])
    assert provider.complaints == []
    assert [reply.failure for reply in replies] == [None] * len(questions)
    assert {received.texts[0].strip() for received in provider.received} == set(questions)


def test_replies_come_in_the_order_of_the_requests_each_to_its_own_picture() -> None:
    images = [Image.new("RGB", (64, 64), (n, 0, 255 - n)) for n in range(0, 250, 5)]

    def name_the_colour(received):
        return Say(f"colour {received.images[0].getpixel((5, 5))[0]}")

    for system in SYSTEMS:
        with system.on_loopback(name_the_colour) as provider:
            replies = system.connect(provider, max_concurrency=16).run(
                [request(CAPTION, image, f"s3://b/{n}") for n, image in enumerate(images)]
            )
        assert [reply.uri for reply in replies] == [f"s3://b/{n}" for n in range(len(images))]
        assert [reply.outcome.text for reply in replies] == [f"colour {n}" for n in range(0, 250, 5)]


def test_thinking_is_turned_down_and_sampling_is_sent_only_where_it_is_taken() -> None:
    bodies = {}
    for system in GENERATIONS:
        with system.on_loopback(perfect(system)) as provider:
            system.connect(provider).run([request(CAPTION)])
            assert provider.complaints == []
            bodies[system.id] = provider.received[0].body
    assert bodies["gpt-4o"]["temperature"] == 0
    assert bodies["gpt-6-luna"]["reasoning_effort"] == "none"
    thinking = {
        name: types.GenerationConfig.model_validate(bodies[name]["generationConfig"]).thinking_config
        for name in ("gemini-3.8-flash", "gemini-2.5-flash")
    }
    assert thinking["gemini-3.8-flash"].thinking_level is types.ThinkingLevel.LOW
    assert thinking["gemini-2.5-flash"].thinking_budget == 0
    assert bodies["gemini-2.5-flash"]["generationConfig"]["temperature"] == 0
    assert bodies["qwen3.7-plus"]["parameters"]["enable_thinking"] is False
    assert "enable_thinking" not in bodies["qwen-vl-max"]["parameters"]


def test_the_test_sees_the_box_where_it_is() -> None:
    assert seen_box(image_with_box((640, 480), BOX)) == BOX
