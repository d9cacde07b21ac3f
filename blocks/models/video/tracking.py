"""Tracks from detections: objects are recognised from frame to frame, and from window to window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from sightflow.blocks.models.video.appearance import appearance
from sightflow.blocks.models.video.association import associate
from sightflow.blocks.models.video.smoothing import smoothed
from sightflow.blocks.models.video.tracklets import Detection
from sightflow.schemas.enrichment import Region, Track, TrackPoint
from sightflow.schemas.geometry import Box

if TYPE_CHECKING:
    from PIL import Image

_LONGEST_GAP_SECONDS: Final = 2.0
_LEAST_OVERLAP_TO_STITCH: Final = 0.5


def link(
    frames: Sequence[tuple[int, float]],
    regions: Sequence[Region],
    images: Mapping[int, Image.Image] | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Track, ...]:
    """Link the regions found in sampled frames, given as `(index, seconds)` ascending, into tracks.

    `images`: the frames by index, for the colours of what was found; with them, `size`: width and height in pixels of
    the upright original, in which the boxes are given and past which none is put.

    A track's label is the one that most of its regions have. Its boxes are those of the regions after `smoothed`: a
    point that is no gap tells that the object was found in this frame, and its box where it is by all frames. Boxes of
    regions with a mask stay theirs. An object that is not found for at most two seconds (and at least one frame) keeps
    its track, and its boxes in between are interpolated and marked as gap. What is found in one frame only, where
    frames are at most half a second apart, is no track. Tracks are numbered from 1 in the order of their first frames,
    then left to right.
    """
    found: dict[int, list[Detection]] = {index: [] for index, _ in frames}
    times = dict(frames)
    for region in sorted(regions, key=lambda r: (r.box.x_min, r.box.y_min, r.box.x_max, r.box.y_max, r.label)):
        if region.frame_index is None:
            continue
        index, box = region.frame_index, region.box
        colours = appearance(images[index], box, *size) if images is not None and size is not None else None
        corners = np.array([box.x_min, box.y_min, box.x_max, box.y_max])
        found[index].append(Detection(region, times[index], corners, colours))
    members = [[d.region for d in each.detections] for each in associate(frames, found, _LONGEST_GAP_SECONDS)]
    return numbered([Track(0, _label(each), _with_gaps(_smoothed(each, size), times)) for each in members])


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
    return numbered(joined)


def _label(regions: Sequence[Region]) -> str:
    return Counter(region.label for region in regions).most_common(1)[0][0]


def _smoothed(regions: Sequence[Region], size: tuple[int, int] | None) -> list[Region]:
    """A track's regions with smoothed boxes; a box that is its mask's stays."""
    found = [(each.box.x_min, each.box.y_min, each.box.x_max, each.box.y_max) for each in regions]
    boxes = smoothed(found, [each.seconds for each in regions], size).tolist()
    return [r if r.mask is not None else replace(r, box=Box(*box)) for r, box in zip(regions, boxes, strict=True)]


def _with_gaps(regions: Sequence[Region], times: Mapping[int, float]) -> tuple[TrackPoint, ...]:
    """A track's points, with the sampled frames between them filled by straight lines and marked."""
    points: list[TrackPoint] = []
    for region in regions:
        assert region.frame_index is not None and region.seconds is not None
        point = TrackPoint(region.frame_index, region.seconds, region.box, region.score, mask=region.mask)
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


def numbered(tracks: Sequence[Track]) -> tuple[Track, ...]:
    """The tracks, numbered from 1 in the order of their first frames, then left to right."""
    ordered = sorted(tracks, key=lambda track: (track.points[0].frame_index, track.points[0].box.x_min, track.label))
    return tuple(replace(track, track_id=k) for k, track in enumerate(ordered, start=1))
