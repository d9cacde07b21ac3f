"""Tracks from detections: objects are recognised from frame to frame, and from window to window.

Association is Norfair's (a Kalman filter of constant velocity, BSD-3-Clause); what is close is said here.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import numpy as np

from sightflow.schemas.enrichment import Region, Track, TrackPoint
from sightflow.schemas.geometry import Box

# A box is the same object's if its centre moved by less than this share of the boxes' mean diagonal, half of the
# distance being how little they overlap: without any overlap the centres may lie one diagonal apart.
_FARTHEST: Final = 1.0
# Added when the labels differ: a detector that wavers between "car" and "truck" does not break a track, but a box of
# the track's own label anywhere near is preferred.
_OTHER_LABEL: Final = 0.6
_LONGEST_GAP_SECONDS: Final = 2.0
_LEAST_OVERLAP_TO_STITCH: Final = 0.5


def link(frames: Sequence[tuple[int, float]], regions: Sequence[Region]) -> tuple[Track, ...]:
    """Link the regions found in sampled frames, given as `(index, seconds)` ascending, into tracks.

    A track's label is the one that most of its regions have; of equally close ones those of the same label are linked
    first. An object that is not found for at most two seconds (and at least one frame)
    keeps its track, and its boxes in between are interpolated and marked as gap. Tracks are numbered from 1 in the
    order of their first frames, then left to right.
    """
    from norfair import Detection, Tracker
    from norfair.filter import OptimizedKalmanFilterFactory

    # It warns that a distance in plain Python is slow, which the model before it makes nothing of.
    logging.getLogger("norfair.tracker").setLevel(logging.ERROR)
    found: dict[int, list[Region]] = {index: [] for index, _ in frames}
    for region in regions:
        if region.frame_index is not None:
            found[region.frame_index].append(region)
    patience = _frames_within(_LONGEST_GAP_SECONDS, [seconds for _, seconds in frames]) + 1
    tracker = Tracker(
        distance_function=_distance,
        distance_threshold=_FARTHEST,
        hit_counter_max=patience,
        initialization_delay=0,
        filter_factory=OptimizedKalmanFilterFactory(),
    )
    members: dict[int, list[Region]] = {}
    for index, _ in frames:
        here = sorted(found[index], key=lambda region: (region.box.x_min, region.box.y_min, region.label))
        detections = [Detection(_corners(region.box), data=region) for region in here]
        # One hit fills the counter: an object that was seen once is waited for as long as any other.
        tracker.update(detections, period=patience)
        for tracked in tracker.tracked_objects:
            region = tracked.last_detection.data
            if tracked.global_id is not None and any(region is other for other in here):
                members.setdefault(tracked.global_id, []).append(region)
    times = dict(frames)
    tracks = [Track(0, _label(points), _with_gaps(points, times)) for points in members.values()]
    return _numbered(tracks)


def stitch(windows: Sequence[Sequence[Track]]) -> tuple[Track, ...]:
    """Join the tracks of consecutive windows that share frames: those of one label whose boxes agree there."""
    from scipy.optimize import linear_sum_assignment

    joined: list[Track] = []
    for tracks in windows:
        agreement = np.array([[_agreement(a, b) for b in tracks] for a in joined]).reshape(len(joined), len(tracks))
        pairs = {
            int(b): int(a)
            for a, b in zip(*linear_sum_assignment(-agreement), strict=True)
            if agreement[a, b] >= _LEAST_OVERLAP_TO_STITCH
        }
        for index, track in enumerate(tracks):
            if index not in pairs:
                joined.append(track)
                continue
            before = joined[pairs[index]]
            later = tuple(point for point in track.points if point.frame_index > before.points[-1].frame_index)
            joined[pairs[index]] = replace(before, points=before.points + later)
    return _numbered(joined)


def _distance(detection: Any, tracked: Any) -> float:
    """0: the same place; above `_FARTHEST`: another object."""
    other_label = 0.0 if detection.data.label == tracked.last_detection.data.label else _OTHER_LABEL
    here, there = detection.points, tracked.estimate
    diagonals = np.linalg.norm(here[1] - here[0]), np.linalg.norm(there[1] - there[0])
    apart = np.linalg.norm(here.mean(axis=0) - there.mean(axis=0)) / max(float(np.mean(diagonals)), 1e-6)
    return float(0.5 * apart + 0.5 * (1 - _overlap(here, there)) + other_label)


def _label(regions: Sequence[Region]) -> str:
    return Counter(region.label for region in regions).most_common(1)[0][0]


def _overlap(here: Any, there: Any) -> float:
    if not (there[0] < there[1]).all():  # an estimate may turn inside out
        return 0.0
    return Box(*here.ravel()).iou(Box(*there.ravel()))


def _corners(box: Box) -> Any:
    return np.array([[box.x_min, box.y_min], [box.x_max, box.y_max]])


def _frames_within(seconds: float, times: Sequence[float]) -> int:
    """How many sampled frames go into a time, at the median pace."""
    steps = [b - a for a, b in pairwise(times)]
    pace = float(np.median(steps)) if steps else seconds
    return max(int(seconds / pace), 1) if pace > 0 else 1


def _with_gaps(regions: Sequence[Region], times: Mapping[int, float]) -> tuple[TrackPoint, ...]:
    """A track's points, with the sampled frames between them filled by straight lines and marked."""
    points: list[TrackPoint] = []
    for region in regions:
        assert region.frame_index is not None and region.seconds is not None
        point = TrackPoint(region.frame_index, region.seconds, region.box, region.score)
        if points:
            before = points[-1]
            missing = [k for k in times if before.frame_index < k < point.frame_index]
            points += [_between(before, point, k, times[k]) for k in missing]
        points.append(point)
    return tuple(points)


def _between(before: TrackPoint, after: TrackPoint, index: int, seconds: float) -> TrackPoint:
    share = (seconds - before.seconds) / max(after.seconds - before.seconds, 1e-9)
    edges = (
        getattr(before.box, edge) + share * (getattr(after.box, edge) - getattr(before.box, edge))
        for edge in ("x_min", "y_min", "x_max", "y_max")
    )
    return TrackPoint(index, seconds, Box(*edges), gap=True)


def _agreement(a: Track, b: Track) -> float:
    """The mean overlap (intersection over union) in the frames that two tracks share; 0 if there are none."""
    if a.label != b.label:
        return 0.0
    boxes = {point.frame_index: point.box for point in a.points}
    overlaps = [boxes[p.frame_index].iou(p.box) for p in b.points if p.frame_index in boxes]
    return float(np.mean(overlaps)) if overlaps else 0.0


def _numbered(tracks: Sequence[Track]) -> tuple[Track, ...]:
    ordered = sorted(tracks, key=lambda track: (track.points[0].frame_index, track.points[0].box.x_min, track.label))
    return tuple(replace(track, track_id=k) for k, track in enumerate(ordered, start=1))
