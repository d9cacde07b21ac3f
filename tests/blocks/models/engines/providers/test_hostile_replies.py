"""Whatever a hosted model says, and in whatever envelope: nothing raises, and what is taken as regions is valid."""

import copy
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sightflow.blocks.models.contract import Generated
from sightflow.schemas.enrichment import FieldsResult, RegionsResult, TextResult
from sightflow.schemas.extraction.values import problem_of
from sightflow.schemas.failure import Failure
from sightflow.schemas.masks import mask_fits
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.vision import VisionRequest
from tests.loopback.hosted_systems import (
    ALL,
    CHOOSE,
    DETECT,
    EXTRACT,
    GENERATIONS,
    GROUND,
    SEGMENT,
    SYSTEMS,
    mask_png,
    named,
    request,
)
from tests.loopback.server import Body, Received, Say

WIDTH, HEIGHT = 64, 48
IMAGE = DecodedImage(Image.new("RGB", (WIDTH, HEIGHT)), WIDTH, HEIGHT, "0" * 64)

odd_numbers = st.one_of(
    st.integers(-5, 1005), st.floats(), st.integers(), st.sampled_from([10**400, -(10**30), 1e308, 0, 1000, 1001])
)
scalars = st.none() | st.booleans() | odd_numbers | st.text(max_size=20)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
boxes = st.lists(odd_numbers, min_size=3, max_size=5)
polygons = st.lists(st.lists(odd_numbers, min_size=1, max_size=3), max_size=6) | st.lists(odd_numbers, max_size=9)
masks = (
    polygons | st.sampled_from([mask_png(Image.new("L", (4, 4), shade)) for shade in (0, 255)]) | st.text(max_size=30)
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "label": st.sampled_from(["box", "ball", "BOX ", "the red box", "<script>", ""]) | scalars,
        **dict.fromkeys(("box", "box_2d", "bbox_2d"), boxes | json_values),
        "polygon": polygons | json_values,
        "mask": masks | json_values,
        "score": scalars,
    },
)


@st.composite
def nearly_good(draw):
    """An entry as every system would take it, with at most one part of it spoilt."""
    left, top = draw(st.integers(0, 30)), draw(st.integers(0, 30))
    right, bottom = left + draw(st.integers(1, 30)), top + draw(st.integers(1, 30))
    corners = [left, top, right, bottom]
    label = draw(st.sampled_from(["box", "the red box"]))
    entry = {"label": label, "box": corners, "bbox_2d": corners, "box_2d": [top, left, bottom, right]}
    outline = [[left, top], [right, top], [right, bottom], [left, bottom]]
    entry |= {"polygon": outline} if draw(st.booleans()) else {"mask": outline}
    if draw(st.booleans()):
        spoilt = draw(st.sampled_from(sorted(entry)))
        entry[spoilt] = draw(boxes | polygons | masks | json_values)
    return entry


replies = st.one_of(
    st.text(),
    st.lists(nearly_good(), min_size=1, max_size=3).map(json.dumps),
    st.lists(nearly_good(), min_size=1, max_size=3).map(lambda regions: json.dumps({"regions": regions})),
    json_values.map(json.dumps),
    st.lists(entries, max_size=4).map(json.dumps),
    st.lists(entries, max_size=3).map(lambda regions: json.dumps({"regions": regions})),
    st.lists(entries, max_size=3).map(lambda regions: f"Here you are:\n```json\n{json.dumps(regions)}\n```\nBye"),
    st.sampled_from(["[" * 100_000, '{"a":' * 5000, "[1e999]", "[NaN]", "\ud800", "[]", "null", '{"answer": ["yes"]}']),
)


def check(outcome, enrichment) -> None:
    """A failure with its cause, a text, or regions that lie in the picture."""
    if isinstance(outcome, Failure):
        assert outcome.message
        return
    if enrichment is EXTRACT:
        assert isinstance(outcome, FieldsResult)
        assert problem_of(json.loads(outcome.json), enrichment.extraction_schema) is None
        return
    if enrichment.capability.gives_text:
        assert isinstance(outcome, TextResult)
        assert outcome.text
        assert not enrichment.choices or outcome.text in enrichment.choices
        return
    assert isinstance(outcome, RegionsResult)
    for region in outcome.regions:
        box = region.box
        assert all(math.isfinite(edge) for edge in (box.x_min, box.y_min, box.x_max, box.y_max))
        assert 0 <= box.x_min < box.x_max <= WIDTH
        assert 0 <= box.y_min < box.y_max <= HEIGHT
        assert region.label in (enrichment.labels or enrichment.phrases)
        assert (region.mask is not None) == (enrichment is SEGMENT)
        assert region.mask is None or mask_fits(region.mask, WIDTH, HEIGHT)


@pytest.mark.parametrize("system", GENERATIONS, ids=named)
@settings(max_examples=150, deadline=None)
@given(text=replies, enrichment=st.sampled_from([DETECT, GROUND, SEGMENT, CHOOSE]))
def test_no_text_raises_and_no_invalid_region_comes_through(system, text, enrichment) -> None:
    model = system.model(id=system.id)
    asked = VisionRequest("s3://b/x", enrichment, IMAGE)
    (prompt,) = model.prompts(enrichment, IMAGE.kind)
    check(model.reply(asked, [(prompt, Generated(text))]).outcome, enrichment)


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
def test_a_million_characters_are_no_regions(system) -> None:
    with system.on_loopback(lambda _: Say("[" + "1," * 500_000 + "1]")) as provider:
        (reply,) = system.connect(provider).run([request(DETECT)])
    assert reply.failure.cause == "malformed"


def paths(value, so_far=()):
    yield so_far
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*so_far, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from paths(inner, (*so_far, place))


def replaced(value, path, new):
    if not path:
        return new
    value = copy.deepcopy(value)
    node = value
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = new
    return value


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
def test_no_envelope_raises(system) -> None:
    """Any part of a good answer replaced by anything, or the whole of it."""
    body = b""
    with system.on_loopback(lambda _: Body(body)) as provider:
        model = system.connect(provider, max_attempts=1)
        good = Received(0, system.id, "", ("JSON array",), (IMAGE.pixels,), {}, {})
        answer = provider.answer(good, Say("all is well"), 10, 5)

        @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
        @given(path=st.sampled_from(list(paths(answer))), new=json_values, enrichment=st.sampled_from(ALL))
        def behaves(path, new, enrichment) -> None:
            nonlocal body
            body = json.dumps(replaced(answer, path, new)).encode()
            (reply,) = model.run([request(enrichment)])
            check(reply.outcome, enrichment)
            assert reply.model_id and isinstance(reply.model_id, str)
            assert reply.raw_reply is None or isinstance(reply.raw_reply, str)
            assert 0 <= reply.usage.cost_usd < 1e6

        behaves()
    assert provider.complaints == []
