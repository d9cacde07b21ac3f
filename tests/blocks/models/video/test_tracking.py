"""Tracks: objects keep their identity through crossings and gaps, and from window to window."""

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from sightflow.blocks.models.video.appearance import appearance
from sightflow.blocks.models.video.tracking import link, stitch
from sightflow.schemas.enrichment import Region, Track, TrackPoint
from sightflow.schemas.geometry import Box


def at(frame: int, label: str, x: float, y: float = 50.0, size: float = 20.0) -> Region:
    return Region(label, Box(x, y, x + size, y + size), frame_index=frame * 3, seconds=frame / 8)


def frames(count: int) -> list[tuple[int, float]]:
    return [(k * 3, k / 8) for k in range(count)]


def test_one_object_is_one_track_with_its_frames_and_times() -> None:
    (track,) = link(frames(10), [at(k, "car", 10.0 + 6 * k) for k in range(10)])
    assert (track.track_id, track.label) == (1, "car")
    assert [(p.frame_index, p.seconds, p.gap) for p in track.points] == [(k * 3, k / 8, False) for k in range(10)]


def test_a_short_absence_is_bridged_and_marked() -> None:
    seen = [k for k in range(12) if k not in (4, 5, 6)]
    (track,) = link(frames(12), [at(k, "car", 10.0 + 6 * k) for k in seen])
    assert [p.frame_index // 3 for p in track.points if p.gap] == [4, 5, 6]
    assert abs(track.points[5].box.x_min - 40.0) < 1.0


def test_after_a_long_absence_it_is_another_track() -> None:
    seen = [*range(4), *range(30, 34)]
    tracks = link(frames(34), [at(k, "car", 100.0) for k in seen])
    assert len(tracks) == 2
    assert not any(point.gap for track in tracks for point in track.points)


def test_objects_that_cross_keep_their_identities() -> None:
    regions = [at(k, "red", 10.0 + 10 * k) for k in range(16)] + [at(k, "blue", 160.0 - 10 * k) for k in range(16)]
    tracks = link(frames(16), regions)
    assert [track.label for track in tracks] == ["red", "blue"]
    assert all(len(track.points) == 16 for track in tracks)


def test_a_detector_that_wavers_between_two_labels_does_not_break_a_track() -> None:
    regions = [at(k, "truck" if k in (3, 7) else "car", 10.0 + 4 * k) for k in range(10)]
    (track,) = link(frames(10), regions)
    assert track.label == "car" and len(track.points) == 10


def test_people_who_cross_are_told_apart_by_what_they_wear() -> None:
    """Both are "person", meet and turn back: their paths alone would have them walk past each other."""
    there = [*range(9), *range(7, -1, -1)]
    coats = {"red": [10.0 + 8 * k for k in there], "blue": [150.0 - 8 * k for k in there]}
    regions, images = [], {}
    for k in range(len(there)):
        images[k * 3] = Image.new("RGB", (220, 120), "gray")
        for coat, places in coats.items():
            box = at(k, "person", places[k]).box
            ImageDraw.Draw(images[k * 3]).rectangle((box.x_min, box.y_min, box.x_max, box.y_max), coat)
            regions.append(at(k, "person", places[k]))

    def worn(tracks: Any) -> list[set[str]]:
        def nearest(point: TrackPoint) -> str:
            return min(coats, key=lambda coat: abs(coats[coat][point.frame_index // 3] - point.box.x_min))

        return [{nearest(point) for point in track.points if not point.gap} for track in tracks]

    assert worn(link(frames(len(there)), regions, images, (220, 120))) == [{"red"}, {"blue"}]
    assert worn(link(frames(len(there)), regions)) != [{"red"}, {"blue"}]


def test_boxes_of_an_original_that_is_larger_than_its_frames_are_looked_up_where_they_lie() -> None:
    small = Image.new("RGB", (100, 50), "white")
    ImageDraw.Draw(small).rectangle((50, 0, 99, 49), "blue")
    blue = appearance(Image.new("RGB", (8, 8), "blue"), Box(0, 0, 8, 8), 8, 8)
    assert appearance(small, Box(1100, 100, 1900, 900), 2000, 1000) @ blue > 0.99
    assert appearance(small, Box(100, 100, 900, 900), 2000, 1000) @ blue < 0.5


def test_a_box_at_the_edge_or_of_no_size_has_colours_all_the_same() -> None:
    frame = Image.new("L", (10, 10), 200)
    for box in (Box(9.9, 9.9, 10, 10), Box(3, 3, 3.001, 3.001), Box(0, 0, 10, 10), Box(-5, -5, 30, 30)):
        assert abs(float((appearance(frame, box, 10, 10) ** 2).sum()) - 1) < 1e-9


def test_what_is_found_once_among_many_frames_is_no_track_and_at_one_a_minute_it_is() -> None:
    slip = [at(4, "car", 300.0), *[at(k, "car", 10.0) for k in range(8)]]
    assert len(link(frames(8), slip)) == 1
    seldom = [(k, 60.0 * k) for k in range(3)]
    regions = [Region("car", Box(300.0, 0, 320, 20), frame_index=1, seconds=60.0)]
    assert len(link(seldom, regions)) == 1


def test_an_object_told_under_two_names_is_one_track() -> None:
    both = [at(k, "car", 10.0 + 4 * k) for k in range(10)] + [at(k, "vehicle", 11.0 + 4 * k) for k in range(2, 8)]
    (track,) = link(frames(10), both)
    assert track.label == "car" and len(track.points) == 10


def test_an_object_that_is_told_twice_while_one_box_takes_over_from_the_other_is_one_track() -> None:
    both = [at(k, "car", 10.0 + 4 * k) for k in range(8)] + [at(k, "car", 12.0 + 4 * k) for k in range(5, 20)]
    (track,) = link(frames(20), both)
    assert len(track.points) == 20 and not any(point.gap for point in track.points)


def test_two_who_start_over_one_another_are_told_apart_by_where_they_go() -> None:
    """In the second frame each is where the other was in the first."""
    times = [(k, k / 25) for k in range(25)]
    places = {"right": [200.0 + 10 * k for k in range(25)], "left": [210.0 - 10 * k for k in range(25)]}
    regions = [
        Region("person", Box(x, 50, x + 20, 70), frame_index=k, seconds=k / 25)
        for way in places.values()
        for k, x in enumerate(way)
    ]
    assert [[p.box.x_min for p in t.points] for t in link(times, regions)] == [places["right"], places["left"]]


def test_a_track_whose_middle_turns_out_to_be_of_another_one_is_two() -> None:
    """A van is hidden, shows for two frames and is hidden again, next to a car that is gone for 2.5 seconds."""
    regions = [at(k, "car", 0.0) for k in (*range(9), *range(28, 37))]
    regions += [at(k, "van", 3.0 if k in (18, 19) else 7.0) for k in (*range(13), 18, 19, *range(25, 37))]
    seen = {(t.label, *(p.frame_index // 3 for p in (t.points[0], t.points[-1]))) for t in link(frames(37), regions)}
    assert seen == {("car", 0, 8), ("van", 0, 36), ("car", 28, 36)}


def test_boxes_are_smoothed_and_those_of_masks_are_not() -> None:
    regions = [replace(at(k, "car", 10.0 + 6 * k + (k == 9) * 5), score=k / 20) for k in range(20)]
    (track,) = link(frames(20), regions)
    assert abs(track.points[9].box.x_min - 64) < 0.1 and not track.points[9].gap
    assert [point.score for point in track.points] == [k / 20 for k in range(20)]
    masked = [replace(region, mask="counts") if k == 9 else region for k, region in enumerate(regions)]
    (track,) = link(frames(20), masked)
    assert track.points[9].box == regions[9].box


def noisy(seed: int) -> list[Region]:
    """A car and a cart in forty frames, each box off by some pixels and one in ten not found."""
    rng = np.random.default_rng(seed)
    regions = []
    for k in range(40):
        for label, x, y in (("car", 20.0 + 5 * k, 60.0 + 2 * k), ("cart", 220.0 - 5 * k, 80.0)):
            left, top, right, bottom = rng.laplace((x, y, x + 40, y + 30), 1.5)
            if rng.random() > 0.1:
                regions.append(Region(label, Box(left, top, right, bottom), frame_index=3 * k, seconds=k / 8))
    return regions


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_windows_of_smoothed_tracks_agree_where_they_meet(seed: int) -> None:
    regions = noisy(seed)
    windows = [
        link(frames(40)[part], [r for r in regions if (r.frame_index or 0) // 3 in range(40)[part]])
        for part in (slice(0, 24), slice(16, 40))
    ]
    joined = stitch(windows)
    assert sorted(track.label for track in joined) == ["car", "cart"]
    for track in joined:
        assert [p.frame_index for p in track.points] == sorted({p.frame_index for p in track.points})
        assert track.points[-1].frame_index >= 3 * 36


def test_one_missed_frame_is_bridged_however_far_apart_frames_are() -> None:
    seldom = [(k, 30.0 * k) for k in range(5)]
    regions = [Region("car", Box(5, 0, 25, 20), frame_index=k, seconds=30.0 * k) for k in (0, 1, 3, 4)]
    (track,) = link(seldom, regions)
    assert [p.frame_index for p in track.points if p.gap] == [2]


def test_nothing_found_is_no_track() -> None:
    assert link(frames(5), []) == ()
    assert link([], []) == ()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 100), st.randoms(use_true_random=False))
def test_the_order_in_which_regions_are_told_does_not_matter(seed: int, random: Random) -> None:
    regions = noisy(seed)
    told = random.sample(regions, len(regions))
    assert link(frames(40), told) == link(frames(40), regions)


def track(number: int, label: str, places: dict[int, float]) -> Track:
    points = tuple(TrackPoint(k, k / 8, Box(x, 10.0, x + 20, 30.0)) for k, x in places.items())
    return Track(number, label, points)


def test_windows_are_joined_where_their_boxes_agree() -> None:
    first = [track(1, "car", {k: 5.0 * k for k in range(8)}), track(2, "car", dict.fromkeys(range(8), 300.0))]
    # The second window numbers them the other way round, and a third car has come.
    second = [
        track(1, "car", dict.fromkeys(range(4, 12), 300.0)),
        track(2, "car", {k: 5.0 * k + 1 for k in range(4, 12)}),
        track(3, "car", dict.fromkeys(range(9, 12), 150.0)),
    ]
    joined = stitch([first, second])
    assert [len(t.points) for t in joined] == [12, 12, 3]
    assert [t.track_id for t in joined] == [1, 2, 3]
    assert [p.frame_index for p in joined[0].points] == list(range(12))
    assert {p.box.x_min for p in joined[1].points} == {300.0}


def test_another_label_at_the_same_place_is_another_track() -> None:
    joined = stitch(
        [[track(1, "car", dict.fromkeys(range(4), 10.0))], [track(1, "dog", dict.fromkeys(range(2, 6), 10.0))]]
    )
    assert {t.label for t in joined} == {"car", "dog"}
