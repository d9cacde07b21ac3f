"""What is known of one object while a video is linked: its detections, and where it is by them at another time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from sightflow.blocks.models.video.smoothing import smoothed
from sightflow.schemas.enrichment import Region

_MOTION_SECONDS: Final = 1.0  # over which a velocity is fitted
_LEAST_FITTED: Final = 5  # detections to fit it to, if frames are far apart
_COLOUR_DETECTIONS: Final = 6  # whose colours are averaged
_FRAMES_BEYOND: Final = 2  # its ends, in which a tracklet is looked for


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

    def path(self, frames: Sequence[tuple[int, float]], step: float) -> dict[int, Any]:
        """Its box in each of the frames, given as `(index, seconds)`, from two before its beginning to two after its
        end: its detections smoothed, with straight lines between them, and what is expected beyond.
        """
        times = [each.seconds for each in self.detections]
        boxes = smoothed([each.box for each in self.detections], times)
        beyond = _FRAMES_BEYOND * step + 1e-6
        path = {}
        for index, seconds in frames:
            if self.begins <= seconds <= self.ends:
                path[index] = np.array([np.interp(seconds, times, edge) for edge in boxes.T])
            elif self.begins - beyond <= seconds <= self.ends + beyond:
                path[index] = self.expected(seconds, step, onwards=seconds > self.ends)
        return path

    def _motion(self, onwards: bool) -> list[Detection]:
        if onwards:
            within = [each for each in self.detections if each.seconds >= self.ends - _MOTION_SECONDS]
            return within if len(within) >= _LEAST_FITTED else self.detections[-_LEAST_FITTED:]
        within = [each for each in self.detections if each.seconds <= self.begins + _MOTION_SECONDS]
        return within if len(within) >= _LEAST_FITTED else self.detections[:_LEAST_FITTED]

    def colours(self, whole: bool = False) -> Any:
        """The colours of its last detections, or of all, as one unit vector."""
        near = self.detections if whole else self.detections[-_COLOUR_DETECTIONS:]
        mean = np.mean([each.colours for each in near], axis=0)
        return mean / max(float(np.linalg.norm(mean)), 1e-12)


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
