"""Seeded drawings of coloured shapes whose truth (labels, boxes, masks, caption) is known exactly.

Coordinates are absolute pixels of the drawn image, origin at the top left corner, x to the right. A box is
(x_min, y_min, x_max, y_max) with exclusive maxima: it encloses whole pixels, so x_max - x_min is their count.

Seeds 0..9_999 are held out for evaluation; training uses seeds from `TRAINING_SEED` upwards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sightflow.infra.demo.shapes_vocabulary import COLOUR_NAMES, COLOURS, SHAPES, article, enumerate_phrases

TRAINING_SEED: Final = 1_000_000

Box = tuple[float, float, float, float]
Point = tuple[float, float]
Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]
Mode = Literal["plain", "crowded"]

_STAR_INNER: Final = 0.45
_CIRCLE_VERTICES: Final = 12
# A regular 12-gon of this radius has the area of the unit circle: pi = 12/2 * r^2 * sin(2 pi / 12).
_CIRCLE_OUTLINE: Final = math.sqrt(math.pi / (0.5 * _CIRCLE_VERTICES * math.sin(2 * math.pi / _CIRCLE_VERTICES)))


@dataclass(frozen=True)
class Placement:
    """One shape to draw: its colour, kind, centre and size (side of its square, pixels), which may leave the frame."""

    colour: str
    shape: str
    centre: Point
    size: float
    rgb: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class SceneObject:
    """What is visible of one drawn shape.

    `box` encloses the visible pixels tightly; `mask` is (height, width) of the image and true on them;
    `outline` is the shape's polygon cut to the frame (what covers it is not cut out), clockwise from its
    topmost, then leftmost, corner, in pixels;
    `visible` is the share of the shape's pixels that lie in the frame and are not covered;
    `placement` is the index of the drawn placement, the identity of the object between frames.
    """

    colour: str
    shape: str
    box: Box
    outline: tuple[Point, ...]
    mask: Mask = field(repr=False, compare=False)
    visible: float = 1.0
    placement: int = 0

    @property
    def label(self) -> str:
        """The name of the object: "red circle"."""
        return f"{self.colour} {self.shape}"

    @property
    def phrase(self) -> str:
        """The name with its article: "a red circle"."""
        return f"{article(self.colour)} {self.label}"


@dataclass(frozen=True)
class Scene:
    """A drawing and its truth; `objects` run left to right by the centre of their boxes."""

    seed: int
    image: Image.Image = field(repr=False, compare=False)
    objects: tuple[SceneObject, ...]

    @property
    def caption(self) -> str:
        """The one true caption: "a red circle, a blue square and a green star", left to right."""
        return enumerate_phrases([thing.phrase for thing in self.objects])


def outline_of(shape: str, centre: Point, size: float) -> tuple[Point, ...]:
    """Return the polygon of a shape, clockwise from the top, in the pixels of `centre` and `size`."""
    x, y = centre
    radius = size / 2
    match shape:
        case "square":
            angles, radii = [-45.0, 45.0, 135.0, 225.0], [radius * math.sqrt(2)] * 4
        case "triangle":
            return ((x, y - radius), (x + radius, y + radius), (x - radius, y + radius))
        case "star":
            angles = [36.0 * point for point in range(10)]
            radii = [radius, radius * _STAR_INNER] * 5
        case "circle":
            angles = [15.0 + 30.0 * point for point in range(_CIRCLE_VERTICES)]
            radii = [radius * _CIRCLE_OUTLINE] * _CIRCLE_VERTICES
        case _:
            raise ValueError(f"unknown shape {shape!r}; known are {', '.join(SHAPES)}")
    return tuple(
        (x + r * math.sin(math.radians(angle)), y - r * math.cos(math.radians(angle)))
        for angle, r in zip(angles, radii, strict=True)
    )


def from_the_top(polygon: Sequence[Point]) -> tuple[Point, ...]:
    """Return the same polygon begun at its topmost corner, the leftmost of these if there are several."""
    first = min(range(len(polygon)), key=lambda index: (round(polygon[index][1], 4), polygon[index][0]))
    return (*polygon[first:], *polygon[:first])


def cut_to_frame(polygon: Sequence[Point], width: float, height: float) -> tuple[Point, ...]:
    """Return the part of a polygon within (0, 0)..(width, height), by Sutherland and Hodgman (1974), from the top."""
    corners = list(polygon)
    for axis, edge, sign in ((0, 0.0, 1.0), (0, width, -1.0), (1, 0.0, 1.0), (1, height, -1.0)):
        kept: list[Point] = []
        for before, after in zip([corners[-1], *corners[:-1]], corners, strict=True):
            depth_before, depth_after = sign * (before[axis] - edge), sign * (after[axis] - edge)
            if (depth_before < 0) != (depth_after < 0):
                share = depth_before / (depth_before - depth_after)
                crossing = [before[i] + share * (after[i] - before[i]) for i in (0, 1)]
                crossing[axis] = edge
                kept.append((crossing[0], crossing[1]))
            if depth_after >= 0:
                kept.append(after)
        corners = kept
        if not corners:
            return ()
    return from_the_top(corners)


def _raster(placement: Placement, width: int, height: int) -> tuple[Mask, float]:
    """Return the pixels of a shape inside the frame, and the area in pixels of the whole shape."""
    sheet = Image.new("1", (width, height))
    pen = ImageDraw.Draw(sheet)
    (x, y), radius = placement.centre, placement.size / 2
    if placement.shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
        area = math.pi * radius**2
    else:
        corners = outline_of(placement.shape, placement.centre, placement.size)
        pen.polygon(list(corners), fill=1)
        shifted = (*corners[1:], corners[0])
        area = 0.5 * abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, shifted, strict=True)))
    return np.array(sheet, dtype=np.bool_), area


def draw_frame(background: Pixels, placements: Sequence[Placement]) -> tuple[Image.Image, tuple[SceneObject, ...]]:
    """Draw placements in order, later ones on top, over a (height, width, 3) background, which is not changed.

    Returns the RGB image and, in the order of the placements, the objects of which at least one pixel shows.
    """
    height, width = background.shape[:2]
    canvas = background.copy()
    owner = np.full((height, width), -1, dtype=np.int16)
    areas: list[float] = []
    for index, placement in enumerate(placements):
        mask, area = _raster(placement, width, height)
        areas.append(area)
        canvas[mask] = placement.rgb or COLOURS[placement.colour]
        owner[mask] = index
    objects: list[SceneObject] = []
    for index, placement in enumerate(placements):
        mask = owner == index
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size == 0:
            continue
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        outline = cut_to_frame(outline_of(placement.shape, placement.centre, placement.size), width, height)
        visible = min(1.0, float(mask.sum()) / max(areas[index], 1.0))
        objects.append(SceneObject(placement.colour, placement.shape, box, outline, mask, visible, index))
    return Image.fromarray(canvas), tuple(objects)


def draw_background(rng: np.random.Generator, width: int, height: int) -> Pixels:
    """Return a (height, width, 3) sheet: greyish and flat, or a gradient, with or without light noise."""

    def muted() -> npt.NDArray[np.float64]:
        # Backgrounds keep away from the saturated colours of the shapes, so that every shape can be told from them.
        level = rng.uniform(15, 245)
        return np.clip(level + rng.uniform(-18, 18, size=3), 0, 255)

    start = muted()
    sheet = np.broadcast_to(start, (height, width, 3)).astype(np.float32)
    if rng.random() < 0.5:
        angle, end = rng.uniform(0, 2 * math.pi), muted()
        ramp = np.add.outer(
            np.linspace(-0.5, 0.5, height) * math.sin(angle), np.linspace(-0.5, 0.5, width) * math.cos(angle)
        )
        ramp = (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-6)
        sheet = (start + ramp[..., None] * (end - start)).astype(np.float32)
    if rng.random() < 0.5:
        sheet = sheet + rng.uniform(1, 9) * rng.standard_normal((height, width, 1), dtype=np.float32)
    return np.clip(sheet, 0, 255).astype(np.uint8)


def _tinted(rng: np.random.Generator, colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(np.clip(level + rng.integers(-14, 15), 0, 255)) for level in COLOURS[colour])
    return red, green, blue


def _plain(rng: np.random.Generator, width: int, height: int, count: int) -> list[Placement] | None:
    """Shapes inside the frame, apart from one another, all of different names and of clearly different x."""
    names = rng.choice(len(COLOURS) * len(SHAPES), size=count, replace=False)
    short = min(width, height)
    placements: list[Placement] = []
    for name in names:
        colour, shape = COLOUR_NAMES[int(name) // len(SHAPES)], SHAPES[int(name) % len(SHAPES)]
        for _ in range(40):
            size = short * rng.uniform(0.22, 0.5 if count < 3 else 0.42)
            reach = size / 2 + 2
            centre = (rng.uniform(reach, width - reach), rng.uniform(reach, height - reach))
            if all(
                max(abs(centre[0] - other.centre[0]), abs(centre[1] - other.centre[1])) > (size + other.size) / 2 + 3
                and abs(centre[0] - other.centre[0]) > 0.05 * width
                for other in placements
            ):
                placements.append(Placement(colour, shape, centre, size, _tinted(rng, colour)))
                break
        else:
            return None
    return placements


def _crowded(rng: np.random.Generator, width: int, height: int, count: int) -> list[Placement]:
    """Shapes that may cover one another, leave the frame, and repeat, as in the frames of a video."""
    short = min(width, height)
    placements: list[Placement] = []
    for _ in range(count):
        size = short * rng.uniform(0.2, 0.5)
        centre = (rng.uniform(0.0, width), rng.uniform(0.0, height))
        if placements and rng.random() < 0.3:
            colour, shape = placements[-1].colour, placements[-1].shape
        else:
            colour, shape = str(rng.choice(COLOUR_NAMES)), str(rng.choice(SHAPES))
        placements.append(Placement(colour, shape, centre, size, _tinted(rng, colour)))
    return placements


def draw_scene(seed: int, mode: Mode = "plain") -> Scene:
    """Draw the scene of a seed: 1 to 4 shapes on 160..480 px sides. The same seed gives the same bytes.

    "plain" scenes, the default, are unambiguous: whole shapes, apart, each name once. "crowded" ones may
    overlap, be cut by the edge and repeat names; at least 35% of every shape shows.
    """
    rng = np.random.default_rng([seed, 0 if mode == "plain" else 1])
    width, height = (int(side) for side in rng.integers(160, 481, size=2))
    # Aspect stays within 1:2 .. 2:1, the range of common photographs and videos.
    width, height = min(width, 2 * height), min(height, 2 * width)
    background = draw_background(rng, width, height)
    count = int(rng.integers(1, 5))
    while True:
        placements = (_plain if mode == "plain" else _crowded)(rng, width, height, count)
        if placements is None:
            continue
        image, objects = draw_frame(background, placements)
        if len(objects) == count and all(thing.visible > 0.35 for thing in objects):
            break
    ordered = sorted(objects, key=lambda thing: (thing.box[0] + thing.box[2], thing.box[1] + thing.box[3]))
    return Scene(seed, image, tuple(ordered))
