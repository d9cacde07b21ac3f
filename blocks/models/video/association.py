"""Which detections in the frames of a video are one object's: the whole video is known, so both sides of a gap are.

Assignments, each the cheapest as a whole (the linear sum assignment problem, scipy's): from frame to frame, a
detection goes to the tracklet whose expected place, label and colours it fits best; then tracklets are joined where
the end of one, followed onwards, meets the beginning of another, followed back. When all of a video is linked, its
detections are dealt once more, to the paths that are now known before and after each frame, and what is left over is
linked and joined likewise. Whoever changes how counts up `ASSOCIATION_VERSION`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from sightflow.blocks.models.video.tracklets import Detection, Tracklet, distances, overlaps

# Distances: half of how far apart the centres are in mean diagonals, and half of how little the boxes overlap.
_FARTHEST: Final = 0.6  # of a detection from where its object is expected
_COSTLIEST: Final = 0.9  # such a distance with what label and colours add
_FARTHEST_JOINED: Final = 0.7  # of two tracklets that are followed towards each other, labels included
# What is added when none of the labels agrees: a detector that wavers between "car" and "truck" breaks no tracklet, and
# two tracklets of different labels are joined only where they meet exactly.
_OTHER_LABEL: Final = 0.3
_OTHER_LABEL_JOINED: Final = 0.5
_PATIENCE_SECONDS: Final = 0.5  # for which the frame-to-frame assignment waits for an object
_SAME_PLACE: Final = 0.5  # intersection over union above which two tracklets show one object
_SAME_DETECTION: Final = 0.7  # above which two detections of one label in a frame show one object
_DENSE_SECONDS: Final = 0.5  # between frames; an object that is there is then found more than once
_NEVER: Final = 1e3


def associate(
    frames: Sequence[tuple[int, float]], found: Mapping[int, Sequence[Detection]], longest_gap: float
) -> list[Tracklet]:
    """One tracklet an object, of the detections in frames given as `(index, seconds)` ascending.

    `longest_gap`: the seconds after which an object that comes back is another; one missed frame is always bridged.
    Dropped are what lies on a longer tracklet in most of its frames, what begins on a detection of the same label, and,
    where frames are dense, what is found once.
    """
    times = [seconds for _, seconds in frames]
    step = float(np.median(np.diff(times))) if len(times) > 1 else longest_gap
    longest = max(longest_gap, 2 * step) + 1e-6
    least = 2 if step <= _DENSE_SECONDS and len(frames) > 1 else 1
    tracklets = _objects(_from_frame_to_frame(frames, found, step), step, longest, least)
    taken, rest = _along_paths(tracklets, frames, found, step)
    parts = [part for each in taken for part in _apart(each, longest)]
    return _objects(parts + _from_frame_to_frame(frames, rest, step), step, longest, least)


def _objects(tracklets: Sequence[Tracklet], step: float, longest_gap: float, least: int) -> list[Tracklet]:
    """What is left of tracklets with at least so many detections when they are joined and doubles dropped."""
    return _without_doubles(_joined([t for t in tracklets if len(t.detections) >= least], step, longest_gap))


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
        taken = _cheapest(_costs_of_following(live, here, seconds, step)) if live and here else {}
        for row, column in taken.items():
            live[row].detections.append(here[column])
        live += [Tracklet([each]) for each in _unseen(here, set(taken.values()))]
    return done + live


def _along_paths(
    tracklets: Sequence[Tracklet],
    frames: Sequence[tuple[int, float]],
    found: Mapping[int, Sequence[Detection]],
    step: float,
) -> tuple[list[Tracklet], dict[int, list[Detection]]]:
    """The detections dealt anew, now that it is known where each object comes from and where it goes: of each frame to
    the tracklets whose paths pass there; and by frame those that no path takes.
    """
    paths = [each.path(frames, step) for each in tracklets]
    labels = [each.labels() for each in tracklets]
    coloured = any(each.colours is not None for here in found.values() for each in here)
    colours = [each.colours(whole=True) if coloured else None for each in tracklets]
    dealt = [Tracklet() for _ in tracklets]
    rest: dict[int, list[Detection]] = {}
    for index, _ in frames:
        here = list(found[index])
        passing = [k for k, path in enumerate(paths) if index in path]
        taken = {}
        if passing and here:
            apart = distances(np.array([paths[k][index] for k in passing]), np.array([each.box for each in here]))
            taken = _cheapest(_costs(apart, [labels[k] for k in passing], [colours[k] for k in passing], here))
        for row, column in taken.items():
            dealt[passing[row]].detections.append(here[column])
        rest[index] = _unseen(here, set(taken.values()))
    return [each for each in dealt if each.detections], rest


def _unseen(here: Sequence[Detection], taken: Collection[int]) -> list[Detection]:
    """The detections of a frame that show an object of their own: not taken, and on none of the same label that is."""
    kept = list(taken)
    for column, each in enumerate(here):
        if column in taken:
            continue
        others = [here[k].box for k in kept if here[k].region.label == each.region.label]
        if not others or overlaps(each.box[None], np.array(others)).max() <= _SAME_DETECTION:
            kept.append(column)
    return [here[k] for k in sorted(set(kept) - set(taken))]


def _apart(tracklet: Tracklet, longest_gap: float) -> list[Tracklet]:
    """A tracklet's parts between gaps that are too long for one object."""
    parts = [Tracklet()]
    for each in tracklet.detections:
        if parts[-1].detections and each.seconds - parts[-1].ends > longest_gap:
            parts.append(Tracklet())
        parts[-1].detections.append(each)
    return parts


def _costs_of_following(live: Sequence[Tracklet], here: Sequence[Detection], seconds: float, step: float) -> Any:
    boxes = np.array([each.box for each in here])
    apart = distances(np.array([each.expected(seconds, step) for each in live]), boxes)
    # A velocity is not known before a third detection: where it was last is as good a guess.
    young = [k for k, each in enumerate(live) if len(each.detections) < 3]
    if young:
        where = np.array([live[k].detections[-1].box for k in young])
        apart[young] = np.minimum(apart[young], distances(where, boxes))
    coloured = here[0].colours is not None
    colours = [each.colours() if coloured else None for each in live]
    return _costs(apart, [each.labels() for each in live], colours, here)


def _costs(apart: Any, labels: Sequence[Counter[str]], colours: Sequence[Any], here: Sequence[Detection]) -> Any:
    """What it costs to take each detection of a frame for each object, of which labels and colours are given."""
    told = [each.region.label for each in here]
    costs = apart + _OTHER_LABEL * np.array([_strangeness(known, told) for known in labels])
    if here[0].colours is not None:
        alike = np.array(colours) @ np.array([each.colours for each in here]).T
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
            later = [k for k, after in enumerate(rest) if 0 < after.begins - before.ends <= longest_gap and k != row]
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


def _cheapest(costs: Any) -> dict[int, int]:
    """The column of each row that has one, the whole being the cheapest; `_NEVER` is no pair."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(costs)
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True) if costs[row, column] < _NEVER}
