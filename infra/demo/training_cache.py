"""Training scenes drawn once and kept as arrays, so that drawing never holds up a training step."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightflow.infra.demo.moving_scenes import LEAST_VISIBLE, draw_clip
from sightflow.infra.demo.scenes import Point, Scene, draw_scene, from_the_top
from sightflow.infra.demo.shapes_vocabulary import LOCATION_BINS

SIDE: Final = 128
GRID: Final = 8
MIXTURES: Final = {  # kinds of scenes, taken by the seed in turn
    "scenes": ("crowded", "plain", "plain", "plain"),
    "films": ("crowded", "film", "film", "plain"),
}


@dataclass(frozen=True)
class Thing:
    """One object in the unit square: box and outline are fractions of the image's width and height."""

    label: str
    box: tuple[float, float, float, float]
    outline: tuple[Point, ...]

    def mirrored(self) -> "Thing":
        """Return the object of the left-right mirrored image; its outline still runs clockwise from the top."""
        x_min, y_min, x_max, y_max = self.box
        points = [(1 - x, y) for x, y in reversed(self.outline)]
        return Thing(self.label, (1 - x_max, y_min, 1 - x_min, y_max), from_the_top(points))


def draw_video_frame(seed: int) -> Scene:
    """Return one frame of the busy film of a seed: shapes that cover one another, enter and leave.

    What shows less than `LEAST_VISIBLE` of itself is drawn and not told of, as in the films' truth.
    """
    clip = draw_clip(seed, "busy")
    order = np.random.default_rng([seed, 4]).permutation(clip.frame_count)
    for number in order:
        image, objects = clip.frame(int(number))
        told = [thing for thing in objects if thing.visible >= LEAST_VISIBLE]
        if told:
            break
    ordered = sorted(told, key=lambda thing: (thing.box[0] + thing.box[2], thing.box[1] + thing.box[3]))
    return Scene(seed, image, tuple(ordered))


def things_of(scene: Scene) -> tuple[Thing, ...]:
    """Return the objects of a scene in the unit square, left to right."""
    width, height = scene.image.size
    return tuple(
        Thing(
            thing.label,
            (thing.box[0] / width, thing.box[1] / height, thing.box[2] / width, thing.box[3] / height),
            tuple((x / width, y / height) for x, y in thing.outline),
        )
        for thing in scene.objects
    )


def location_bin(fraction: float) -> int:
    """Return the location bin, 0..999, of a fraction of a side, as `Florence2PostProcessor.quantize` does."""
    return min(max(int(fraction * LOCATION_BINS), 0), LOCATION_BINS - 1)


@dataclass(frozen=True)
class Cached:
    """Scenes as arrays: pixels (N, 128, 128, 3) uint8; owners (N, 8, 8) int8, the object that covers most of
    each image token, -1 for none; the objects of each scene, left to right.
    """

    pixels: npt.NDArray[np.uint8]
    owners: npt.NDArray[np.int8]
    things: list[tuple[Thing, ...]]


def _one(seed: int, kinds: Sequence[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int8], tuple[Thing, ...]]:
    kind = kinds[seed % len(kinds)]
    scene = draw_video_frame(seed) if kind == "film" else draw_scene(seed, "crowded" if kind == "crowded" else "plain")
    pixels = np.asarray(scene.image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    cover = [
        np.asarray(Image.fromarray(thing.mask.astype(np.float32)).resize((GRID, GRID), Image.Resampling.BOX))
        for thing in scene.objects
    ]
    stack = np.stack(cover)
    owners = np.where(stack.max(axis=0) > 0.3, stack.argmax(axis=0), -1).astype(np.int8)
    return pixels, owners, things_of(scene)


def draw_cache(seeds: Sequence[int], mixture: str, workers: int) -> Cached:
    """Draw the scenes of seeds in `workers` processes, of the kinds of a mixture."""
    with get_context("spawn").Pool(workers) as pool:
        drawn = pool.map(partial(_one, kinds=MIXTURES[mixture]), seeds, chunksize=250)
    return Cached(
        np.stack([pixels for pixels, _, _ in drawn]),
        np.stack([owners for _, owners, _ in drawn]),
        [things for _, _, things in drawn],
    )


def _things(
    labels: npt.NDArray[np.str_],
    boxes: npt.NDArray[np.float64],
    outlines: npt.NDArray[np.float64],
    ends: npt.NDArray[np.int64],
) -> list[tuple[Thing, ...]]:
    flat = [
        Thing(str(label), (box[0], box[1], box[2], box[3]), tuple((x, y) for x, y in outline if x >= 0))
        for label, box, outline in zip(labels.tolist(), boxes.tolist(), outlines.tolist(), strict=True)
    ]
    starts = [0, *ends.tolist()[:-1]]
    return [tuple(flat[start:end]) for start, end in zip(starts, ends.tolist(), strict=True)]


def load_or_draw(path: Path, first_seed: int, count: int, mixture: str, workers: int = 2) -> Cached:
    """Return `count` training scenes from `first_seed`, from the cache file if it holds exactly these."""
    if path.is_file():
        with np.load(path, allow_pickle=False) as kept:
            if (int(kept["first_seed"]), int(kept["count"]), str(kept["mixture"])) == (first_seed, count, mixture):
                things = _things(kept["labels"], kept["boxes"], kept["outlines"], kept["ends"])
                return Cached(kept["pixels"], kept["owners"], things)
    cached = draw_cache(range(first_seed, first_seed + count), mixture, workers)
    flat = [thing for things in cached.things for thing in things]
    outlines = np.full((len(flat), max(len(thing.outline) for thing in flat), 2), -1.0)
    for row, thing in enumerate(flat):
        outlines[row, : len(thing.outline)] = thing.outline
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        first_seed=first_seed,
        count=count,
        mixture=mixture,
        pixels=cached.pixels,
        owners=cached.owners,
        labels=np.array([thing.label for thing in flat]),
        boxes=np.array([thing.box for thing in flat]),
        outlines=outlines,
        ends=np.cumsum([len(things) for things in cached.things]),
    )
    return cached
