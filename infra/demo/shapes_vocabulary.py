"""The closed world of the demo: six colours, four shapes, and every word said about them."""

from collections.abc import Sequence
from typing import Final

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (215, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 85, 215),
    "yellow": (240, 210, 40),
    "purple": (140, 60, 175),
    "orange": (245, 135, 30),
}
SHAPES: Final[tuple[str, ...]] = ("circle", "square", "triangle", "star")
COLOUR_NAMES: Final[tuple[str, ...]] = tuple(COLOURS)
LABELS: Final[tuple[str, ...]] = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)

VQA_TASK: Final = "<VQA>"
LOCATION_BINS: Final = 1000

# What Florence2Processor writes for the task tokens this model is trained on; see
# transformers/models/florence2/processing_florence2.py, `task_prompts_*`.
PROCESSOR_PROMPTS: Final[tuple[str, ...]] = (
    "What does the image describe?",
    "Describe in detail what is shown in the image.",
    "Locate the objects with category name in the image.",
    "Locate the phrases in the caption:",
    "Locate in the image with mask",
    "Locate in the image.",
)
QUESTION_WORDS: Final = (
    "how many shapes objects are there is there in the image picture what colour color is the what shape is "
    "a an left right of above below which leftmost rightmost yes no and at top bottom middle on contain does"
)


def article(word: str) -> str:
    """Return the indefinite article that fits `word`: "an orange star", "a red star"."""
    return "an" if word[0] in "aeiou" else "a"


def enumerate_phrases(phrases: Sequence[str]) -> str:
    """Join phrases as English does: "x", "x and y", "x, y and z"."""
    if len(phrases) < 2:
        return "".join(phrases)
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def words() -> list[str]:
    """Return every lower-case word and punctuation mark of prompts and answers, each once, in a fixed order."""
    said = [*COLOURS, *SHAPES, *(f"{shape}s" for shape in SHAPES), "shape", "object"]
    for text in (*PROCESSOR_PROMPTS, QUESTION_WORDS):
        said += text.lower().replace("?", " ").replace(".", " ").replace(":", " ").split()
    said += [str(count) for count in range(10)]
    return [*dict.fromkeys(said)]


PUNCTUATION: Final[tuple[str, ...]] = (".", ",", "?", ":")
