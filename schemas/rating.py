"""A system's column of the comparison table: the prior that the router starts from.

Each system states its own column in its file. A rating is 0..5; 0 means "cannot", None that nobody has rated it:
then it is used where an enrichment names it.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sightflow.schemas.capability import Capability

Difficulty = Literal["very easy", "easy", "medium", "hard"]
Start = Literal["fastest", "fast", "medium", "slow"]


class Rating(BaseModel):
    """One system's column. `used_by`: how it is reached. `languages`: ISO 639 codes that it is at home in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str = Field(pattern=r"^[a-z0-9][a-z0-9\-]*$")
    capabilities: dict[Capability, int | None]
    deployment: Difficulty
    getting_started: Start
    weights: Literal["open", "closed"]
    used_by: str = Field(default="own deployment", min_length=3)
    community: str = Field(default="unrated", min_length=3)
    strength: str = Field(min_length=3)
    languages: tuple[str, ...] = ("en",)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if missing := [c for c in Capability if c not in self.capabilities]:
            raise ValueError(f"{self.system} has no rating for {', '.join(missing)}")
        if bad := [c for c, stars in self.capabilities.items() if stars is not None and not 0 <= stars <= 5]:
            raise ValueError(f"{self.system}: ratings are 0..5; look at {', '.join(bad)}")
        return self

    def of(self, capability: Capability) -> int | None:
        return self.capabilities[capability]

    @property
    def can(self) -> frozenset[Capability]:
        """The capabilities that are not rated 0."""
        return frozenset(c for c, stars in self.capabilities.items() if stars != 0)

    @property
    def summary(self) -> str:
        """What the table says beside the stars, in a few words."""
        return (
            f"{self.strength}; deployment {self.deployment}, getting started {self.getting_started}, "
            f"{self.weights} weights, community and documentation {self.community}; {self.used_by}"
        )


def stars(
    captioning: int,
    answering: int,
    reasoning: int,
    grounding: int,
    detection: int,
    tracking: int,
    video_captioning: int,
    extraction: int | None = None,
) -> dict[Capability, int | None]:
    """The rows of the comparison table, 0..5 each; detection and segmentation share one.

    `extraction`: of fields by a schema, which the table does not rate: as answering, unless it is said.
    """
    return {
        Capability.IMAGE_CAPTIONING: captioning,
        Capability.VISUAL_QUESTION_ANSWERING: answering,
        Capability.VISUAL_REASONING: reasoning,
        Capability.VISUAL_GROUNDING: grounding,
        Capability.OBJECT_DETECTION: detection,
        Capability.SEGMENTATION: detection,
        Capability.OBJECT_TRACKING: tracking,
        Capability.VIDEO_CAPTIONING: video_captioning,
        Capability.STRUCTURED_EXTRACTION: answering if extraction is None else extraction,
    }


def unrated(*capabilities: Capability) -> dict[Capability, int | None]:
    """The column of a system that nobody has rated: it can do these, and nothing else."""
    return {each: None if each in capabilities else 0 for each in Capability}
