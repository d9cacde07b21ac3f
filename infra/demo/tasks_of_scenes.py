"""What is asked of a scene and the exact text that answers it, in the form Florence2Processor parses.

Inputs are what a caller passes to the processor (task token, then words); answers are what the decoder writes.
Location tokens are bins 0..999 of the image's width and height.
"""

import random
from collections.abc import Sequence
from typing import Final

from sightflow.infra.demo.shapes_vocabulary import (
    LABELS,
    SHAPES,
    VQA_TASK,
    article,
    enumerate_phrases,
)
from sightflow.infra.demo.training_cache import Thing, location_bin

Asked = tuple[str, str]

OD: Final = "<OD>"
CAPTION: Final = "<CAPTION>"
DETAILED_CAPTION: Final = "<DETAILED_CAPTION>"
GROUNDING: Final = "<CAPTION_TO_PHRASE_GROUNDING>"
OPEN_VOCABULARY: Final = "<OPEN_VOCABULARY_DETECTION>"
SEGMENTATION: Final = "<REFERRING_EXPRESSION_SEGMENTATION>"


def locations(points: Sequence[float]) -> str:
    """Write fractions, x and y by turns, as location tokens."""
    return "".join(f"<loc_{location_bin(point)}>" for point in points)


def with_article(label: str) -> str:
    """Return "a red circle" for "red circle"."""
    return f"{article(label)} {label}"


def caption(things: Sequence[Thing]) -> str:
    """The caption of a scene, as `Scene.caption`."""
    return enumerate_phrases([with_article(thing.label) for thing in things])


def place(thing: Thing) -> str:
    """Name the ninth of the image that holds the centre of a box: "top left", "middle", "bottom"."""
    x, y = (thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2
    row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    return " ".join(part for part in (row, column) if part) or "middle"


def detailed_caption(things: Sequence[Thing]) -> str:
    """The caption with places: "a red circle at the top left and a blue square in the middle"."""
    return enumerate_phrases(
        [f"{with_article(t.label)} {'in' if place(t) == 'middle' else 'at'} the {place(t)}" for t in things]
    )


def detection(things: Sequence[Thing]) -> str:
    """All objects: "red circle<loc_..>" with four location tokens each, left to right."""
    return "".join(thing.label + locations(thing.box) for thing in things)


def named(things: Sequence[Thing], name: str) -> list[Thing]:
    """Return the things a name fits: "a red circle", "red circle", "circle" or "red shape"."""
    words = name.removeprefix("an ").removeprefix("a ").split()
    return [thing for thing in things if all(word in ("shape", *thing.label.split()) for word in words)]


def located(things: Sequence[Thing], names: Sequence[str]) -> str:
    """Each name that fits something, with the boxes of all it fits; nothing at all if none does."""
    found = [(name, named(things, name)) for name in names]
    return "".join(name + "".join(locations(t.box) for t in fitting) for name, fitting in found if fitting)


def polygons(things: Sequence[Thing], name: str) -> str:
    """The outlines, of one location token pair a corner, of what a name fits, parted by <sep>."""
    return "<sep>".join(locations([c for point in t.outline for c in point]) for t in named(things, name))


def questions(things: Sequence[Thing], rng: random.Random) -> list[tuple[str, str]]:
    """Return (question, answer) pairs about a scene, one of each form that applies, in a fixed order."""
    labels = [thing.label for thing in things]
    colours, shapes = [label.split()[0] for label in labels], [label.split()[1] for label in labels]
    asked = [("how many shapes are there?", str(len(things)))]
    shape = rng.choice([rng.choice(shapes), rng.choice(SHAPES)])
    asked.append((f"how many {shape}s are there?", str(shapes.count(shape))))
    once = [index for index in range(len(things)) if shapes.count(shapes[index]) == 1]
    if once:
        index = rng.choice(once)
        asked.append((f"what colour is the {shapes[index]}?", colours[index]))
    once = [index for index in range(len(things)) if colours.count(colours[index]) == 1]
    if once:
        index = rng.choice(once)
        asked.append((f"what shape is {colours[index]}?", shapes[index]))
    # Half of the absent names share a colour or shape with one that is there, so a guess does not pay.
    present = rng.choice(labels)
    near = [label for label in LABELS if set(label.split()) & set(present.split())]
    label = present if rng.random() < 0.5 else rng.choice([*near, rng.choice(LABELS)])
    asked.append((f"is there {with_article(label)}?", "yes" if label in labels else "no"))
    if len(set(labels)) == len(labels) > 1:
        first, second = rng.sample(range(len(labels)), 2)
        side = rng.choice(["left", "right"])
        answer = "yes" if (first < second) == (side == "left") else "no"
        asked.append((f"is the {labels[first]} {side} of the {labels[second]}?", answer))
        asked.append(("what is the leftmost shape?", labels[0]))
    return asked


def _name(things: Sequence[Thing], rng: random.Random, absent: float) -> str:
    chance = rng.random()
    label = rng.choice(LABELS) if rng.random() < absent else rng.choice(things).label
    colour, shape = label.split()
    return label if chance < 0.8 else shape if chance < 0.9 else f"{colour} shape"


def ask(task: str, things: Sequence[Thing], rng: random.Random) -> Asked:
    """Return one (input, answer) of a task about a scene, drawn at random where the task leaves a choice."""
    match task:
        case "<OD>":
            return task, detection(things)
        case "<CAPTION>":
            return task, caption(things)
        case "<DETAILED_CAPTION>":
            return task, detailed_caption(things)
        case "<CAPTION_TO_PHRASE_GROUNDING>":
            if rng.random() < 0.35:
                names = [*dict.fromkeys(with_article(thing.label) for thing in things)]
                return task + enumerate_phrases(names), located(things, names)
            name = _name(things, rng, 0.15)
            name = with_article(name) if rng.random() < 0.6 else name
            return task + name, located(things, [name])
        case "<OPEN_VOCABULARY_DETECTION>":
            names = [*dict.fromkeys(_name(things, rng, 0.3) for _ in range(rng.choice([1, 1, 2])))]
            return task + rng.choice([", ", " and "]).join(names), located(things, names)
        case "<REFERRING_EXPRESSION_SEGMENTATION>":
            name = rng.choice(things).label
            return task + rng.choice([name, with_article(name), f"the {name}"]), polygons(things, name)
        case "<VQA>":
            question, answer = rng.choice(questions(things, rng))
            question = question.replace("colour", "color") if rng.random() < 0.3 else question
            return (VQA_TASK if rng.random() < 0.8 else "") + question, answer
        case _:
            raise ValueError(f"the demo model is not trained on {task}")


def mix_at(step: int, widen_from: int, widen_to: int) -> dict[str, float]:
    """Return the share of each task at a step: detection and captions first, all tasks once they begin to see."""
    narrow = {OD: 0.5, CAPTION: 0.2, GROUNDING: 0.2, VQA_TASK: 0.1}
    wide = {
        OD: 0.25, CAPTION: 0.12, DETAILED_CAPTION: 0.07, GROUNDING: 0.22,
        OPEN_VOCABULARY: 0.08, SEGMENTATION: 0.12, VQA_TASK: 0.14,
    }  # fmt: skip
    share = min(max((step - widen_from) / max(widen_to - widen_from, 1), 0.0), 1.0)
    return {task: (1 - share) * narrow.get(task, 0.0) + share * wide[task] for task in wide}
