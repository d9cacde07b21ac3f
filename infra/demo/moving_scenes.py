"""Seeded short films of moving shapes whose truth (boxes, identities, caption) is known for every frame.

Coordinates are absolute pixels of the drawn frame, as in `scenes`. Seeds 0..9_999 are held out, as there.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import av
import numpy as np
from PIL import Image

from sightflow.infra.demo.scenes import Pixels, Placement, SceneObject, draw_background, draw_frame
from sightflow.infra.demo.shapes_vocabulary import COLOUR_NAMES, COLOURS, SHAPES, article, enumerate_phrases

Plot = Literal["calm", "busy"]
LEAST_VISIBLE: Final = 0.25
"""Share of a shape that must show for it to count as there, as MOTChallenge leaves out what is mostly hidden."""
DIRECTIONS: Final = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}


@dataclass(frozen=True)
class Mover:
    """One shape on its way: `start` and `end` are its centres, in pixels, in the first and the last frame."""

    colour: str
    shape: str
    size: float
    start: tuple[float, float]
    end: tuple[float, float]
    motion: str
    rgb: tuple[int, int, int]

    def at(self, share: float) -> Placement:
        """Where it is when this share (0..1) of the film has passed."""
        x, y = (a + (b - a) * share for a, b in zip(self.start, self.end, strict=True))
        return Placement(self.colour, self.shape, (x, y), self.size, self.rgb)

    @property
    def phrase(self) -> str:
        """What is said of it: "a red circle moves right"."""
        return f"{article(self.colour)} {self.colour} {self.shape} {self.motion}"


@dataclass(frozen=True)
class Clip:
    """A film and its truth. `movers` run left to right by where they start; `SceneObject.placement` indexes them."""

    seed: int
    width: int
    height: int
    frame_rate: float
    frame_count: int
    movers: tuple[Mover, ...]
    background: Pixels = field(repr=False, compare=False)

    @property
    def caption(self) -> str:
        """The one true caption: "a red circle moves right and a blue star stays"."""
        return enumerate_phrases([mover.phrase for mover in self.movers])

    def frame(self, number: int) -> tuple[Image.Image, tuple[SceneObject, ...]]:
        """Draw frame `number`: the RGB picture, and what is visible of each shape."""
        share = number / max(self.frame_count - 1, 1)
        return draw_frame(self.background, [mover.at(share) for mover in self.movers])


def write_video(clip: Clip, path: Path) -> None:
    """Write a clip as H.264 in MP4, at a quality at which colours and edges stay what they are (CRF 12, 4:4:4)."""
    with av.open(str(path), "w", format="mp4") as out:
        options = {"crf": "12", "preset": "veryfast", "g": "16"}
        stream: Any = out.add_stream("libx264", rate=Fraction(clip.frame_rate), options=options)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv444p"
        for number in range(clip.frame_count):
            image, _ = clip.frame(number)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        out.mux(stream.encode())


def draw_clip(seed: int, plot: Plot = "calm", size: tuple[int, int] | None = None, frame_count: int = 32) -> Clip:
    """Make the film of a seed: 8 frames a second. The same arguments give the same film.

    "calm": 1 to 3 shapes that stay in the picture and move along one axis or stay, for captions. "busy": 2 to 5 shapes
    that cross, cover one another, enter and leave in any direction, for tracking.
    """
    rng = np.random.default_rng([seed, 2 if plot == "calm" else 3])
    width, height = size or (int(side) for side in rng.integers(160, 321, size=2))
    width, height = min(width, 2 * height), min(height, 2 * width)
    count = int(rng.integers(1, 4)) if plot == "calm" else int(rng.integers(2, 6))
    names = rng.choice(len(COLOURS) * len(SHAPES), size=count, replace=False)
    while True:
        make = _calm if plot == "calm" else _busy
        movers = [make(rng, int(name), width, height) for name in names]
        starts = sorted(mover.start[0] for mover in movers)
        if plot == "busy" or all(b - a > 0.12 * width for a, b in pairwise(starts)):
            break
    movers.sort(key=lambda mover: mover.start[0])
    return Clip(seed, width, height, 8.0, frame_count, tuple(movers), draw_background(rng, width, height))


def _named(rng: np.random.Generator, name: int) -> tuple[str, str, tuple[int, int, int]]:
    colour, shape = COLOUR_NAMES[name // len(SHAPES)], SHAPES[name % len(SHAPES)]
    red, green, blue = (int(np.clip(level + rng.integers(-14, 15), 0, 255)) for level in COLOURS[colour])
    return colour, shape, (red, green, blue)


def _calm(rng: np.random.Generator, name: int, width: int, height: int) -> Mover:
    colour, shape, rgb = _named(rng, name)
    size = min(width, height) * rng.uniform(0.24, 0.38)
    margin = size / 2 + 1
    centre = (rng.uniform(margin, width - margin), rng.uniform(margin, height - margin))
    if rng.random() < 0.2:
        return Mover(colour, shape, size, centre, centre, "stays", rgb)
    direction = str(rng.choice(list(DIRECTIONS)))
    (dx, dy), (x, y) = DIRECTIONS[direction], centre
    room = {"right": width - margin - x, "left": x - margin, "down": height - margin - y, "up": y - margin}[direction]
    side = width if dx else height
    if room < 0.25 * side:  # no room that way: it goes the other way
        direction = {"right": "left", "left": "right", "down": "up", "up": "down"}[direction]
        dx, dy = DIRECTIONS[direction]
        room = (side - 2 * margin) - room
    way = min(room, side * rng.uniform(0.25, 0.7))
    return Mover(colour, shape, size, centre, (x + dx * way, y + dy * way), f"moves {direction}", rgb)


def _busy(rng: np.random.Generator, name: int, width: int, height: int) -> Mover:
    colour, shape, rgb = _named(rng, name)
    size = min(width, height) * rng.uniform(0.22, 0.36)
    angle = rng.uniform(0, 2 * math.pi)
    middle = (width * rng.uniform(0.25, 0.75), height * rng.uniform(0.25, 0.75))
    # Half of the way is up to 0.65 of a side: some start or end outside the picture.
    half = rng.uniform(0.15, 0.65)
    dx, dy = half * width * math.cos(angle), half * height * math.sin(angle)
    start, end = (middle[0] - dx, middle[1] - dy), (middle[0] + dx, middle[1] + dy)
    return Mover(colour, shape, size, start, end, "moves", rgb)
