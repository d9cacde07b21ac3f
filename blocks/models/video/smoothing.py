"""The boxes of one object over time without the detector's noise: what comes before and after each of them is known.

Whoever changes how counts up `ASSOCIATION_VERSION`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

# What a change of velocity of 1 pixel a second costs, in pixels by which a box is off in one frame: where an object is
# changes more freely than how large it is.
_OF_CENTRES: Final = 0.2  # seconds
_OF_SIZES: Final = 1.0  # seconds
# In parts of the median diagonal. Errors and changes below it count as squares, so that there is one minimum. The path
# is found for the largest first: the next one's is then near.
_ROUNDINGS: Final = tuple(0.3**k for k in range(1, 9))
_MOST_STEPS: Final = 30  # for each of these
_CONVERGED: Final = 1e-5  # of a diagonal, in one step
_LEAST_STEP: Final = 1e-3  # seconds: frames of a broken file may have one time
_AS_FOUND: Final = 5e-4  # of a diagonal, the precision of all this; what is moved by less stays as it was found


def smoothed(boxes: Any, seconds: Any, size: tuple[int, int] | None = None) -> Any:
    """The boxes (n, 4) of one object as x_min, y_min, x_max, y_max in pixels, at `seconds` (n,) ascending: of a centre
    and a size that change velocity seldom and keep near to what was found. `size`: width and height, in pixels, of the
    picture, past which no edge is put.

    The path minimises the sum over frames of how far its edges are from those found, plus 0.2 seconds times the sum of
    the changes of its centre's velocity and 1 second times that of half its width's and height's: l1 trend filtering
    (Kim, Koh, Boyd and Gorinevsky, 2009, SIAM Review 51:2) with absolute errors in the place of squared ones, by
    iteratively reweighted least squares (Daubechies, DeVore, Fornasier and Gunturk, 2010).

    - What stands still, moves evenly or grows evenly stays where it was found; what speeds up, slows down or turns is
      followed, since the sum of the changes counts and not how fast they come. The last frames of a track that ends in
      a turn are straightened.
    - What is off and soon back is taken for the detector's error, and its place is where the others say. "Soon" is some
      two times the root of these costs times the seconds between frames: for a box as a whole 0.4 seconds at four
      frames a second and 0.2 at 25; for its width or height 1 and 0.4; for one edge alone, whose move changes both, 1.1
      and 0.4, since the box of an object that another one touches often takes in both. A true move that is as short is
      flattened likewise.
    - A box that would be empty stays as it was found.
    """
    found = np.asarray(boxes, dtype=float)
    if len(found) < 3:
        return found
    diagonal = max(float(np.median(np.linalg.norm(found[:, 2:] - found[:, :2], axis=1))), 1e-6)
    low, high = found[:, :2] / diagonal, found[:, 2:] / diagonal
    path = np.hstack(_path(low, high, np.asarray(seconds, dtype=float))) * diagonal
    path = np.where(np.abs(path - found) < _AS_FOUND * diagonal, found, path)
    if size is not None:
        path = np.clip(path, 0, [*size, *size])
    sides = path[:, 2:] - path[:, :2]
    return np.where(sides.min(axis=1, keepdims=True) <= 0, found, path)


def _path(low: Any, high: Any, seconds: Any) -> tuple[Any, Any]:
    """As `smoothed`, of low and high edges (n, 2), across and down, in diagonals."""
    from scipy.linalg import solveh_banded

    # How a velocity changes at i + 1: of the values at i, i + 1 and i + 2 these parts.
    steps = np.maximum(np.diff(seconds), _LEAST_STEP)
    before, after = 1 / steps[:-1], 1 / steps[1:]
    parts = np.stack([before, -(before + after), after])[:, :, None, None]
    costs = np.array([_OF_CENTRES, _OF_SIZES])
    count = len(low)
    path = np.stack([(low + high) / 2, (high - low) / 2], axis=2)  # of (n, axis, centre and half of the size)
    for rounding in _ROUNDINGS:
        for _ in range(_MOST_STEPS):
            changes = parts[0] * path[:-2] + parts[1] * path[1:-1] + parts[2] * path[2:]
            near_low = 1 / np.hypot(low - (path[:, :, 0] - path[:, :, 1]), rounding)
            near_high = 1 / np.hypot(high - (path[:, :, 0] + path[:, :, 1]), rounding)
            even = costs / np.hypot(changes, rounding / costs)
            # The normal equations as one banded matrix, whose rows are centre and size of each frame in turn, first
            # across, then down. Centre and size of a frame hang together by its edges, frames by their changes.
            own = np.repeat((near_low + near_high)[:, :, None], 2, axis=2)
            next_frame, frame_after, centre_and_size = np.zeros_like(own), np.zeros_like(own), np.zeros_like(own)
            centre_and_size[:, :, 1] = near_high - near_low
            for offset in range(3):
                own[offset : count - 2 + offset] += even * parts[offset] ** 2
            next_frame[1:-1] += even * parts[0] * parts[1]
            next_frame[2:] += even * parts[1] * parts[2]
            frame_after[2:] += even * parts[0] * parts[2]
            bands = (frame_after, np.zeros_like(own), next_frame, centre_and_size, own)
            right = np.stack([near_low * low + near_high * high, near_high * high - near_low * low], axis=2)
            solved = solveh_banded(np.stack([_in_rows(band) for band in bands]), _in_rows(right))
            solved = solved.reshape(2, count, 2).transpose(1, 0, 2)
            moved = float(np.abs(solved - path).max())
            path = solved
            if moved < _CONVERGED:
                break
    return path[:, :, 0] - path[:, :, 1], path[:, :, 0] + path[:, :, 1]


def _in_rows(values: Any) -> Any:
    """Of (n, axis, centre and size), those of the first axis before those of the second."""
    return values.transpose(1, 0, 2).ravel()
