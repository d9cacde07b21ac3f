"""Smoothing: noise goes and real motion stays, wherever boxes lie and however large they are."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightflow.blocks.models.video.smoothing import smoothed

PIXELS = st.floats(-200, 200)


def boxes(across: Any, down: Any, width: Any = 40.0, height: Any = 60.0) -> Any:
    """Boxes around these centres."""
    centres = np.broadcast_arrays(np.asarray(across, dtype=float), down, width, height)
    x, y, w, h = centres
    return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)


@settings(max_examples=50, deadline=None)
@given(PIXELS, PIXELS, st.floats(-5, 5), st.lists(st.floats(0.02, 3.0), min_size=3, max_size=40))
def test_what_moves_or_grows_evenly_stays_where_it_was_found(dx: float, dy: float, growth: float, steps: Any) -> None:
    times = np.cumsum(steps)
    found = boxes(dx * times, dy * times, 400 + growth * times, 600)
    assert (smoothed(found, times) == found).all()


@pytest.mark.parametrize("rate", [4, 8, 25])
def test_what_speeds_up_turns_or_stops_is_followed(rate: int) -> None:
    times = np.arange(6 * rate) / rate
    circle = boxes(200 + 80 * np.cos(np.pi / 2 * times), 200 + 80 * np.sin(np.pi / 2 * times))
    fall = boxes(20 * times, 40 * times**2)
    to_and_fro = boxes(200 * np.abs(times / 2 % 2 - 1), 0)
    stop = boxes(np.minimum(times, 2.5) * 120, 0)
    for found in (circle, fall, to_and_fro, stop):
        shifts = np.abs(smoothed(found, times) - found)
        # Of a bend at the very end of a track nobody knows that it goes on.
        assert shifts[rate:-rate].max() < 0.1 and shifts.max() < 2


@pytest.mark.parametrize("rate", [4, 8, 25])
def test_noise_gets_less_on_a_line_and_on_a_circle(rate: int) -> None:
    times = np.arange(6 * rate) / rate
    noise = np.random.default_rng(1).normal(0, 2, (len(times), 4))
    for true, at_most in (
        (boxes(50 * times, 20 * times), 0.8),
        (boxes(200 + 80 * np.cos(np.pi * times), 200 + 80 * np.sin(np.pi * times)), 0.95),
    ):
        left = smoothed(true + noise, times) - true
        assert np.sqrt((left**2).mean()) < at_most * np.sqrt((noise**2).mean())


@pytest.mark.parametrize(
    ("edges", "error", "four_costs"),
    [([0, 1, 2, 3], 30.0, 0.8), ([0, 2], [-15.0, 15.0], 4.0), ([2], 30.0, 4.8)],
    ids=["box", "width", "edge"],  # and four times what a change of their velocity costs, in seconds
)
@pytest.mark.parametrize("rate", [4, 8, 25])
def test_what_jumps_off_and_is_soon_back_is_an_error(edges: Any, error: Any, four_costs: float, rate: int) -> None:
    times = np.arange(20 * rate) / rate
    true = boxes(50 + 10 * times, 100)
    longest = (four_costs / rate) ** 0.5
    for seconds, corrected in ((0.7 * longest, True), (2 * longest, False)):
        found = true.copy()
        begins, ends = 8 * rate, 8 * rate + round(seconds * rate)
        found[begins:ends, edges] += error
        given_back = smoothed(found, times)
        if corrected:
            assert np.abs(given_back - true).max() < 0.5
        else:
            middle = (begins + ends) // 2
            assert np.abs(given_back[middle] - found[middle]).max() < 0.5


def test_two_boxes_or_fewer_stay() -> None:
    for count in (1, 2):
        found = boxes(np.arange(count) * 100.0, 0)
        assert (smoothed(found, np.arange(count) / 8) == found).all()


CORNER = st.tuples(st.floats(0, 90), st.floats(0, 40), st.floats(0.01, 10), st.floats(0.01, 10))


@settings(max_examples=100, deadline=None)
@given(st.lists(CORNER, min_size=3, max_size=30), st.sampled_from([0.0, 0.01, 0.25, 3600.0]))
def test_boxes_stay_in_the_picture_and_have_an_area(corners: list[tuple[float, ...]], step: float) -> None:
    found = np.array([(x, y, x + width, y + height) for x, y, width, height in corners])
    result = smoothed(found, np.arange(len(found)) * step, (100, 50))
    assert (result >= 0).all() and (result <= (100, 50, 100, 50)).all()
    assert (result[:, 2:] > result[:, :2]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 20), PIXELS, PIXELS)
def test_where_boxes_lie_how_large_they_are_and_the_way_of_time_do_not_matter(
    seed: int, scale: float, right: float, down: float
) -> None:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.05, 0.4, 24))
    found = boxes(30 * times, 10 * times) + rng.laplace(0, 2, (24, 4))
    shift = np.array([right, down, right, down])
    expected = smoothed(found, times)
    near = 2e-3 * 72  # of the diagonal
    assert np.allclose((smoothed(scale * found + shift, times) - shift) / scale, expected, atol=near)
    assert np.allclose(smoothed(found[::-1], -times[::-1])[::-1], expected, atol=near)
    mirrored = found[:, [2, 1, 0, 3]] * (-1, 1, -1, 1)
    assert np.allclose(smoothed(mirrored, times)[:, [2, 1, 0, 3]] * (-1, 1, -1, 1), expected, atol=near)
