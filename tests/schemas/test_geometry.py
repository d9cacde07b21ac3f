"""Boxes: every native space comes back to the pixels of the original, and nothing is mended in silence."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightflow.schemas.geometry import PER_MILLE, PIXELS_SEEN, Box, BoxFormat, GeometryError, ImageTransform

sides = st.integers(min_value=1, max_value=20_000)


def padded(width: int, height: int, seen_width: int, seen_height: int) -> ImageTransform:
    """The original scaled to fit and centred on a canvas of this size."""
    scale = min(seen_width / width, seen_height / height)
    content = (width * scale, height * scale)
    margins = ((seen_width - content[0]) / 2, (seen_height - content[1]) / 2)
    return ImageTransform(width, height, seen_width, seen_height, *margins, *content)


@st.composite
def frames_and_boxes(draw: st.DrawFn) -> tuple[ImageTransform, Box]:
    width, height = draw(sides), draw(sides)
    seen = draw(st.sampled_from(["whole", "resized", "padded"]))
    other = (draw(st.integers(8, 4096)), draw(st.integers(8, 4096)))
    transform = {
        "whole": lambda: ImageTransform.whole(width, height),
        "resized": lambda: ImageTransform.resized(width, height, *other),
        "padded": lambda: padded(width, height, *other),
    }[seen]()
    unit = st.floats(0, 1, allow_nan=False)
    left, right = sorted((draw(unit), draw(unit)))
    top, bottom = sorted((draw(unit), draw(unit)))
    box = Box(left * width, top * height, right * width, bottom * height)
    if (right - left) < 1e-6 or (bottom - top) < 1e-6:
        box = Box(0, 0, width, height)
    return transform, box


SPACES = [
    PER_MILLE,
    PIXELS_SEEN,
    BoxFormat(scale=1.0, quantum=1e-3),
    BoxFormat(scale=1000.0, order="yxyx"),
    BoxFormat(scale=999.0, order="yxyx"),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
@given(frames_and_boxes())
def test_a_box_survives_the_way_into_a_native_space_and_back(
    space: BoxFormat, given_: tuple[ImageTransform, Box]
) -> None:
    transform, box = given_
    back = space.to_pixels(space.from_pixels(box, transform), transform)
    for edge in ("x_min", "y_min", "x_max", "y_max"):
        assert getattr(back, edge) == pytest.approx(
            getattr(box, edge), abs=1e-6 * max(transform.width, transform.height)
        )


@pytest.mark.parametrize(
    ("space", "numbers", "transform", "pixels"),
    [
        (PER_MILLE, (100, 200, 300, 400), ImageTransform.whole(640, 480), (64, 96, 192, 192)),
        (BoxFormat(1000.0, "yxyx"), (200, 100, 400, 300), ImageTransform.whole(640, 480), (64, 96, 192, 192)),
        (PIXELS_SEEN, (28, 56, 140, 196), ImageTransform.resized(1920, 1080, 560, 308), (96, 196.3636, 480, 687.2727)),
        # 1000x500 scaled onto 400x400 fills 400x200, with 100 rows of padding above.
        (PIXELS_SEEN, (100, 150, 200, 250), padded(1000, 500, 400, 400), (250, 125, 500, 375)),
    ],
)
def test_golden_conversions(
    space: BoxFormat, numbers: tuple[float, ...], transform: ImageTransform, pixels: tuple[float, ...]
) -> None:
    box = space.to_pixels(numbers, transform)
    assert (box.x_min, box.y_min, box.x_max, box.y_max) == pytest.approx(pixels, abs=1e-3)


def test_one_native_step_past_the_edge_is_clipped_and_more_is_refused() -> None:
    transform = ImageTransform.whole(640, 480)
    assert PER_MILLE.to_pixels((-1, 0, 1001, 500), transform) == Box(0, 0, 640, 240)
    with pytest.raises(GeometryError, match="outside"):
        PER_MILLE.to_pixels((-2, 0, 500, 500), transform)
    with pytest.raises(GeometryError, match="outside"):
        PER_MILLE.to_pixels((0, 0, 500, 1002), transform)


@pytest.mark.parametrize("numbers", [(300, 0, 100, 10), (5, 5, 5, 9), (0, 9, 9, 9), (1, 2, 3), (1, 2, 3, 4, 5)])
def test_inverted_empty_and_miscounted_boxes_are_refused(numbers: tuple[float, ...]) -> None:
    with pytest.raises(GeometryError):
        PER_MILLE.to_pixels(numbers, ImageTransform.whole(640, 480))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(GeometryError):
        PER_MILLE.to_pixels((0, 0, bad, 10), ImageTransform.whole(640, 480))


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=0, max_size=6), sides, sides)
def test_any_numbers_give_a_box_inside_the_picture_or_a_geometry_error(
    numbers: list[float], width: int, height: int
) -> None:
    try:
        box = PER_MILLE.to_pixels(numbers, ImageTransform.whole(width, height))
    except GeometryError:
        return
    assert 0 <= box.x_min < box.x_max <= width
    assert 0 <= box.y_min < box.y_max <= height


def test_overlap_is_intersection_over_union() -> None:
    assert Box(0, 0, 2, 2).iou(Box(1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert Box(0, 0, 2, 2).iou(Box(2, 0, 3, 3)) == 0
    assert Box(0, 0, 2, 2).iou(Box(0, 0, 2, 2)) == 1
