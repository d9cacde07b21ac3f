"""The comparison table that the router starts from, cell by cell, as it was given."""

from sightflow.blocks.models.registry import system_class
from sightflow.blocks.models.systems import SYSTEMS
from sightflow.schemas.capability import Capability
from sightflow.schemas.rating import Rating

COLUMNS = ("llava-next", "florence-2", "video-llava", "qwen2-vl", "instruct-blip", "gpt-4o", "gemini", "qwen-vl-max")
STARS = {
    Capability.IMAGE_CAPTIONING: (5, 5, 4, 5, 4, 5, 5, 5),
    Capability.VISUAL_QUESTION_ANSWERING: (5, 5, 4, 5, 4, 5, 5, 5),
    Capability.VISUAL_REASONING: (4, 4, 3, 4, 2, 5, 5, 4),
    Capability.VISUAL_GROUNDING: (2, 5, 2, 4, 2, 4, 4, 5),
    Capability.OBJECT_DETECTION: (0, 4, 3, 3, 0, 3, 4, 4),
    Capability.SEGMENTATION: (0, 4, 3, 3, 0, 3, 4, 4),
    Capability.OBJECT_TRACKING: (0, 2, 4, 2, 0, 4, 5, 4),
    Capability.VIDEO_CAPTIONING: (0, 2, 5, 3, 0, 5, 5, 4),
    # No row of the table: as answering, for those that follow instructions.
    Capability.STRUCTURED_EXTRACTION: (5, 0, 4, 5, 4, 5, 5, 5),
}
WORDS = {
    "deployment": ("medium", "easy", "hard", "medium", "medium", "very easy", "very easy", "very easy"),
    "getting_started": ("medium", "fast", "slow", "medium", "medium", "fastest", "fastest", "fastest"),
    "weights": ("open", "open", "open", "open", "open", "closed", "closed", "closed"),
    "used_by": (
        "own deployment (Hugging Face)",
        "transformers",
        "own deployment (own repository)",
        "own deployment (Hugging Face)",
        "own deployment (Hugging Face)",
        "official API",
        "official API (AI Studio)",
        "official API (Alibaba Cloud)",
    ),
    "community": (
        "very active",
        "active",
        "fair",
        "active, strong in Chinese",
        "older, stable",
        "very complete",
        "very complete",
        "complete",
    ),
    "strength": (
        "community, easy to fine-tune",
        "one model, many vision tasks",
        "native video, temporal",
        "Chinese, balanced",
        "classic instruction model",
        "top multimodal reasoning",
        "very long context, video",
        "top in Chinese, complete",
    ),
}


def ratings() -> list[Rating]:
    return [system_class(system).rating for system in COLUMNS]


def test_its_columns_are_the_systems() -> None:
    unrated = {system for system in SYSTEMS if None in system_class(system).rating.capabilities.values()}
    assert set(SYSTEMS) - unrated == set(COLUMNS)
    assert [rating.system for rating in ratings()] == list(COLUMNS)


def test_every_rating_is_as_given() -> None:
    assert {c: tuple(rating.of(c) for rating in ratings()) for c in Capability} == STARS


def test_every_other_row_is_as_given() -> None:
    assert {row: tuple(getattr(rating, row) for rating in ratings()) for row in WORDS} == WORDS
