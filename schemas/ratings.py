"""The comparison table of the eight systems as data; the router reads nothing else.

A rating is 0..5; 0 means "cannot". Source: the project's own comparison of the eight systems.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sightflow.schemas.capability import Capability

Difficulty = Literal["very easy", "easy", "medium", "hard"]
Start = Literal["fastest", "fast", "medium", "slow"]


class Rating(BaseModel):
    """One system's column of the table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str = Field(pattern=r"^[a-z0-9][a-z0-9\-]*$")
    capabilities: dict[Capability, int]
    deployment: Difficulty
    getting_started: Start
    weights: Literal["open", "closed"]
    strength: str = Field(min_length=3)
    languages: tuple[str, ...] = ("en",)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if missing := [c for c in Capability if c not in self.capabilities]:
            raise ValueError(f"{self.system} has no rating for {', '.join(missing)}")
        if bad := [c for c, stars in self.capabilities.items() if not 0 <= stars <= 5]:
            raise ValueError(f"{self.system}: ratings are 0..5; look at {', '.join(bad)}")
        return self

    def of(self, capability: Capability) -> int:
        return self.capabilities[capability]

    @property
    def can(self) -> frozenset[Capability]:
        """The capabilities that are not rated 0."""
        return frozenset(c for c, stars in self.capabilities.items() if stars)


_ROWS = (
    Capability.IMAGE_CAPTIONING,
    Capability.VISUAL_QUESTION_ANSWERING,
    Capability.VISUAL_REASONING,
    Capability.VISUAL_GROUNDING,
    Capability.OBJECT_DETECTION,
    Capability.OBJECT_TRACKING,
    Capability.VIDEO_CAPTIONING,
)


def _column(
    system: str,
    stars: tuple[int, int, int, int, int, int, int],
    deployment: Difficulty,
    getting_started: Start,
    weights: Literal["open", "closed"],
    strength: str,
    languages: tuple[str, ...] = ("en",),
) -> Rating:
    capabilities = dict(zip(_ROWS, stars, strict=True))
    # Detection and segmentation share one row of the table.
    capabilities[Capability.SEGMENTATION] = capabilities[Capability.OBJECT_DETECTION]
    return Rating(
        system=system,
        capabilities=capabilities,
        deployment=deployment,
        getting_started=getting_started,
        weights=weights,
        strength=strength,
        languages=languages,
    )


_CHINESE = ("zh", "en")

# fmt: off
RATINGS: dict[str, Rating] = {rating.system: rating for rating in (
    #                      caption vqa reason ground detect track video
    _column("llava-next",    (5, 5, 4, 2, 0, 0, 0), "medium", "medium", "open", "community, easy to fine-tune"),
    _column("florence-2",    (5, 4, 4, 5, 4, 2, 2), "easy", "fast", "open", "one model, many vision tasks"),
    _column("video-llava",   (4, 4, 3, 2, 3, 4, 5), "hard", "slow", "open", "native video, temporal"),
    _column("qwen2-vl",      (5, 5, 4, 4, 3, 3, 3), "medium", "medium", "open", "Chinese, balanced", _CHINESE),
    _column("instruct-blip", (4, 5, 2, 2, 0, 0, 0), "medium", "medium", "open", "classic instruction model"),
    _column("gpt-4o",        (5, 5, 5, 4, 3, 4, 5), "very easy", "fastest", "closed", "top multimodal reasoning"),
    _column("gemini",        (5, 5, 5, 4, 4, 5, 5), "very easy", "fastest", "closed", "very long context, video"),
    _column("qwen-vl-max",   (5, 5, 4, 5, 4, 4, 5), "very easy", "fastest", "closed",
            "top in Chinese, complete", _CHINESE),
)}
# fmt: on


def rated(system: str) -> Rating:
    """The system's column of the table."""
    return RATINGS[system]
