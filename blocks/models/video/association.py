"""Which detections in the frames of a video are one object's: the whole video is known, so both sides of a gap are.

Two assignments, each the cheapest as a whole (the linear sum assignment problem, scipy's): from frame to frame, a
detection goes to the tracklet whose expected place, label and colours it fits best; then tracklets are joined where
the end of one, followed onwards, meets the beginning of another, followed back. Whoever changes how counts up
`ASSOCIATION_VERSION`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from sightflow.schemas.enrichment import Region

# Distances: half of how far apart the centres are in mean diagonals, and half of how little the boxes overlap.
_FARTHEST: Final = 0.6  # of a detection from where its object is expected
_COSTLIEST: Final = 0.9  # such a distance with what label and colours add
_FARTHEST_JOINED: Final = 0.7  # of two tracklets that are followed towards each other, labels included
# What is added when none of the labels agrees: a detector that wavers between "car" and "truck" breaks no tracklet, and
# two tracklets of different labels are joined only where they meet exactly.
_OTHER_LABEL: Final = 0.3
_OTHER_LABEL_JOINED: Final = 0.5
_PATIENCE_SECONDS: Final = 0.5  # for which the frame-to-frame assignment waits for an object
_MOTION_SECONDS: Final = 1.0  # over which a velocity is fitted
_LEAST_FITTED: Final = 5  # detections to fit it to, if frames are far apart
_COLOUR_DETECTIONS: Final = 6  # whose colours are averaged
_SAME_PLACE: Final = 0.5  # intersection over union above which two tracklets show one object
_DENSE_SECONDS: Final = 0.5  # between frames; an object that is there is then found more than once
_NEVER: Final = 1e3


@dataclass(frozen=True)
class Detection:
    """One region in the frame at `seconds`. `box`: x_min, y_min, x_max, y_max in pixels. `colours`: its `appearance`,
    or None without pictures.
    """

    region: Region
    seconds: float
    box: Any
    colours: Any = None


@dataclass
class Tracklet:
    """Detections of one object, ascending in time."""

    detections: list[Detection] = field(default_factory=list)

    @property
    def begins(self) -> float:
        return self.detections[0].seconds

    @property
    def ends(self) -> float:
        return self.detections[-1].seconds

    def labels(self) -> Counter[str]:
        return Counter(each.region.label for each in self.detections)

    def expected(self, seconds: float, step: float, onwards: bool = True) -> Any:
        """Its box (x_min, y_min, x_max, y_max in pixels) at a time after its end, or before its beginning: a straight
        line fitted to its last, or first, centres, with the median of their sizes.

        A ridge of one squared frame distance keeps the velocity of a short tracklet small.
        """
        near = self._motion(onwards)
        times = np.array([each.seconds for each in near])
        boxes = np.array([each.box for each in near])
        centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        shifted = times - times.mean()
        velocity = shifted @ (centres - centres.mean(axis=0)) / max((shifted**2).sum() + step**2, 1e-12)
        edge = -1 if onwards else 0
        centre, half = centres[edge] + velocity * (seconds - times[edge]), np.median(sizes, axis=0) / 2
        return np.concatenate([centre - half, centre + half])

    def _motion(self, onwards: bool) -> list[Detection]:
        if onwards:
            within = [each for each in self.detections if each.seconds >= self.ends - _MOTION_SECONDS]
            return within if len(within) >= _LEAST_FITTED else self.detections[-_LEAST_FITTED:]
        within = [each for each in self.detections if each.seconds <= self.begins + _MOTION_SECONDS]
        return within if len(within) >= _LEAST_FITTED else self.detections[:_LEAST_FITTED]

    def colours(self) -> Any:
        """The colours of its last detections, as one unit vector."""
        mean = np.mean([each.colours for each in self.detections[-_COLOUR_DETECTIONS:]], axis=0)
        return mean / max(float(np.linalg.norm(mean)), 1e-12)


def associate(
    frames: Sequence[tuple[int, float]], found: Mapping[int, Sequence[Detection]], longest_gap: float
) -> list[Tracklet]:
    """One tracklet an object, of the detections in frames given as `(index, seconds)` ascending.

    `longest_gap`: the seconds after which an object that comes back is another; one missed frame is always bridged.
    Dropped are what lies on a longer tracklet in most of its frames, and, where frames are dense, what is found once.
    """
    times = [seconds for _, seconds in frames]
    step = float(np.median(np.diff(times))) if len(times) > 1 else longest_gap
    tracklets = _from_frame_to_frame(frames, found, step)
    if step <= _DENSE_SECONDS and len(frames) > 1:
        tracklets = [each for each in tracklets if len(each.detections) > 1]
    return _without_doubles(_joined(tracklets, step, max(longest_gap, 2 * step)))


def _from_frame_to_frame(
    frames: Sequence[tuple[int, float]], found: Mapping[int, Sequence[Detection]], step: float
) -> list[Tracklet]:
    live: list[Tracklet] = []
    done: list[Tracklet] = []
    before = -np.inf
    for index, seconds in frames:
        lost = [each for each in live if seconds - each.ends > _PATIENCE_SECONDS + 1e-6 and each.ends < before]
        done += lost
        live = [each for each in live if all(each is not other for other in lost)]
        here, before = list(found[index]), seconds
        taken = _cheapest(_costs(live, here, seconds, step)) if live and here else {}
        for row, column in taken.items():
            live[row].detections.append(here[column])
        fresh = set(range(len(here))) - set(taken.values())
        live += [Tracklet([here[column]]) for column in sorted(fresh)]
    return done + live


def _costs(live: Sequence[Tracklet], here: Sequence[Detection], seconds: float, step: float) -> Any:
    boxes = np.array([each.box for each in here])
    apart = distances(np.array([each.expected(seconds, step) for each in live]), boxes)
    # A velocity is not known before a third detection: where it was last is as good a guess.
    young = [k for k, each in enumerate(live) if len(each.detections) < 3]
    if young:
        where = np.array([live[k].detections[-1].box for k in young])
        apart[young] = np.minimum(apart[young], distances(where, boxes))
    labels = [each.region.label for each in here]
    costs = apart + _OTHER_LABEL * np.array([_strangeness(each.labels(), labels) for each in live])
    if here[0].colours is not None:
        alike = np.array([each.colours() for each in live]) @ np.array([each.colours for each in here]).T
        costs += np.sqrt(np.clip(1 - alike, 0, None))  # the Hellinger distance
    return np.where((apart <= _FARTHEST) & (costs <= _COSTLIEST), costs, _NEVER)


def _strangeness(known: Counter[str], labels: Sequence[str]) -> list[float]:
    total = known.total()
    return [1 - known[label] / total for label in labels]


def _joined(tracklets: Sequence[Tracklet], step: float, longest_gap: float) -> list[Tracklet]:
    """Join what follows one another until nothing more does."""
    rest = sorted(tracklets, key=lambda each: each.begins)
    while True:
        costs = np.full((len(rest), len(rest)), _NEVER)
        for row, before in enumerate(rest):
            later = [
                k for k, after in enumerate(rest) if 0 < after.begins - before.ends <= longest_gap + 1e-6 and k != row
            ]
            for k in later:
                costs[row, k] = _meeting(before, rest[k], step)
        following = _cheapest(np.where(costs <= _FARTHEST_JOINED, costs, _NEVER))
        if not following:
            return rest
        heads = set(range(len(rest))) - set(following.values())
        chains = []
        for head in sorted(heads):
            chain, at = Tracklet(list(rest[head].detections)), head
            while at in following:
                at = following[at]
                chain.detections += rest[at].detections
            chains.append(chain)
        rest = sorted(chains, key=lambda each: each.begins)


def _meeting(before: Tracklet, after: Tracklet, step: float) -> float:
    """How badly one tracklet goes on as the other: the mean distance of where each is expected from where the other is
    found, and how little their labels have in common.
    """
    onwards = distances(before.expected(after.begins, step)[None], after.detections[0].box[None])[0, 0]
    back = distances(after.expected(before.ends, step, onwards=False)[None], before.detections[-1].box[None])[0, 0]
    ours, theirs = before.labels(), after.labels()
    common = sum(min(count / ours.total(), theirs[label] / theirs.total()) for label, count in ours.items())
    return float((onwards + back) / 2 + _OTHER_LABEL_JOINED * (1 - common))


def _without_doubles(tracklets: Sequence[Tracklet]) -> list[Tracklet]:
    """Without those that lie on a longer one in most of their frames: an object was told under two names."""
    kept: list[Tracklet] = []
    by_time: list[dict[float, Any]] = []
    for each in sorted(tracklets, key=lambda tracklet: -len(tracklet.detections)):
        own = [(detection.seconds, detection.box) for detection in each.detections]
        doubled = sum(
            any(seconds in other and overlaps(other[seconds][None], box[None])[0, 0] > _SAME_PLACE for other in by_time)
            for seconds, box in own
        )
        if doubled <= len(own) / 2:
            kept.append(each)
            by_time.append(dict(own))
    return kept


def distances(here: Any, there: Any) -> Any:
    """How far apart boxes are, (n, 4) and (m, 4) in pixels, as (n, m): 0 for the same box, 0.5 for boxes of one centre
    without a common pixel or that touch half a diagonal away, past it without bound.
    """
    diagonals = [np.linalg.norm(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (here, there)]
    centres = [(boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (here, there)]
    mean = np.maximum((diagonals[0][:, None] + diagonals[1][None]) / 2, 1e-6)
    apart = np.linalg.norm(centres[0][:, None] - centres[1][None], axis=2) / mean
    return 0.5 * apart + 0.5 * (1 - overlaps(here, there))


def overlaps(here: Any, there: Any) -> Any:
    """Intersection over union of boxes, (n, 4) and (m, 4), as (n, m)."""
    low, high = np.maximum(here[:, None, :2], there[None, :, :2]), np.minimum(here[:, None, 2:], there[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (here, there)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-12)


def _cheapest(costs: Any) -> dict[int, int]:
    """The column of each row that has one, the whole being the cheapest; `_NEVER` is no pair."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(costs)
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True) if costs[row, column] < _NEVER}
