"""Regions out of JSON that a model wrote: all of them, or the reply is malformed."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sightflow.blocks.models.contract import ReplyError
from sightflow.blocks.models.replies.json_regions import read_json, read_regions
from sightflow.blocks.models.replies.polygon_masks import enclosed_area, mask_region
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment, RegionsResult
from sightflow.schemas.geometry import PER_MILLE, GeometryError, ImageTransform
from sightflow.schemas.masks import decode_mask

DETECT = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("dog", "cat"))
SEGMENT = Enrichment(capability=Capability.SEGMENTATION, labels=("dog",))
WHOLE = ImageTransform.whole(1000, 1000)
DOG: dict[str, Any] = {"label": "dog", "box": [10, 20, 30, 40]}
CAT: dict[str, Any] = {"label": "cat", "box": [50, 60, 70, 80]}
D, C = json.dumps(DOG), json.dumps(CAT)
BOTH = f"[{D}, {C}]"


def read(text: str, enrichment: Enrichment = DETECT) -> RegionsResult:
    return read_regions(text, enrichment, PER_MILLE, WHOLE)


@pytest.mark.parametrize(
    "reply",
    [
        BOTH,
        f"```json\n{BOTH}\n```",
        f"Here they are [see below]:\n{BOTH}\nThat is all.",
        f'{{"regions": {BOTH}}}',
        f"<think>[{D}] and perhaps more</think>{BOTH}",
        f"[{D}] and perhaps more</think>{BOTH}",
        f"{BOTH}<|im_end|>",
        f"In {{curly}} words: {BOTH}",
        f"<answer>{BOTH}</answer>",
    ],
)
def test_both_regions_are_read(reply: str) -> None:
    assert [region.label for region in read(reply).regions] == ["dog", "cat"]


@pytest.mark.parametrize(
    "reply",
    [
        f"[{D}]\nand then\n[{C}]",
        f"```json\n[{D}]\n```\n```json\n[{C}]\n```",
        f"1. {D} 2. {C}",
        f"{D}\n{C}",
        f"If there is none I should answer []. I see two. {BOTH}",
        f"[]\n{BOTH}",
        f"{BOTH}\n[]",
        f"[1] the dog: {BOTH}",
        f"[{D}, " + '{"label": "cat", "box": [50, 60',
        f"[{D}, ",
        f"<think>{BOTH}",
        f"[{D}]<think>one more</think>[{C}]",
        f'{{"regions": [{D}], "regions": [{C}]}}',
        f'{{"regions": [{D}], "more": [{C}]}}',
        f'[{D}, {{"label": "dog", "label": "cat", "box": [1, 2, 3, 4]}}]',
        "I should answer [] if there is none. I see a dog at (1, 2, 3, 4).",
        "- [ ] dog\n- cat",
        "{'label': 'dog', 'box': (1, 2, 3, 4), 'others': []}",
        "{label: dog, others: []}",
        f"<|channel|>analysis<|message|>[{D}]<|end|><|start|>assistant<|channel|>final<|message|>none",
        f"<tool_call>{D}</tool_call>",
        '[{"label": "dog", "box": [1, 2, 3, 4], "bbox": [5, 6, 7, 8]}]',
        "no JSON at all",
    ],
)
def test_more_than_one_answer_or_half_of_one_is_malformed(reply: str) -> None:
    with pytest.raises(ReplyError):
        read(reply)


def test_none_is_an_answer() -> None:
    assert read("[]") == read("There is none: []") == RegionsResult(())


def test_a_label_holds_no_token() -> None:
    anything = Enrichment(capability=Capability.OBJECT_DETECTION)
    with pytest.raises(ReplyError):
        read('[{"label": "dog<|im_end|>", "box": [1, 2, 3, 4]}]', anything)


NOISE = st.lists(
    st.sampled_from([D, C, "[]", "[", "]", ",", "```", "\n", " words ", "<think>", "</think>"]), max_size=8
)


@settings(max_examples=400)
@given(NOISE.map("".join))
def test_no_region_that_was_written_after_the_thinking_is_dropped(reply: str) -> None:
    """Whatever surrounds them: as many regions are read as stand in the answer, or the reply is malformed."""
    try:
        regions = read(reply).regions
    except (ReplyError, GeometryError):
        return
    spoken = reply.rpartition("</think>")[2] if "</think>" in reply else reply
    if "<think>" not in reply:
        assert len(regions) == spoken.count('"label"')


@given(st.text(max_size=200))
def test_any_text_is_json_or_malformed(text: str) -> None:
    try:
        assert isinstance(read_json(text), dict | list)
    except ReplyError:
        return


@pytest.mark.parametrize("reply", ["[" * 300_000, "[a" * 150_000, '["' * 150_000, "{x" * 150_000, '[{"a":' * 60_000])
def test_brackets_without_end_are_malformed_in_one_pass(reply: str) -> None:
    with pytest.raises(ReplyError):
        read_json(reply)


@pytest.mark.parametrize(
    "polygon",
    [
        [[100, 100], [500, 500], [900, 900]],
        [[100, 100], [100, 100], [100, 100]],
        [[100, 100], [900, 100], [500, 100]],
        [[100, 100], [101, 100], [100, 101]],
        [[10, 10], [10, 10], [90, 90], [50, 50]],
    ],
)
def test_a_line_or_a_point_is_no_mask(polygon: list[list[int]]) -> None:
    with pytest.raises((ReplyError, GeometryError)):
        read(json.dumps([{"label": "dog", "polygon": polygon}]), SEGMENT)


def test_a_small_outline_is_a_mask() -> None:
    (region,) = read(
        json.dumps([{"label": "dog", "polygon": [[100, 100], [104, 100], [104, 104], [100, 104]]}]), SEGMENT
    ).regions
    assert decode_mask(region.mask or "", 1000, 1000).sum() == pytest.approx(16, abs=9)


@example([(0, 1), (1, 0), (0, 0)] * 2)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=3, max_size=12))
def test_a_mask_is_never_empty(points: list[tuple[int, int]]) -> None:
    polygon = [float(number) for point in points for number in point]
    try:
        region = mask_region("dog", [polygon], 120, 120)
    except GeometryError:
        assert enclosed_area(polygon) < 1 or len(set(points)) < len(points)  # drawn twice, it encloses twice as much
        return
    assert decode_mask(region.mask or "", 120, 120).any()
