"""A part of the work: what one run looks at, so that a backfill goes in steps and what failed is tried again."""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from sightflow.schemas.failure import Cause


class Selection(BaseModel):
    """Which of the planned items a run computes; nothing given, all of them.

    It never changes what counts as gone from the source: that is seen against the whole listing, and with a manifest,
    where nothing is listed, not at all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    manifest: str | None = Field(default=None, description="only the objects that this file lists, each looked up")
    prefix: str = Field(default="", description="only objects whose URI, or whose key in it, begins so")
    since: AwareDatetime | None = Field(default=None, description="only objects modified at or after this time")
    sample: float = Field(default=1.0, gt=0, le=1, description="about this share of the objects, always the same ones")
    limit: int | None = Field(default=None, ge=1, description="at most so many objects that have work left")
    replay: bool = Field(default=False, description="only what is in quarantine, whatever its cause")
    causes: tuple[Cause, ...] = Field(default=(), description="of a replay: only these causes")
    system: str | None = Field(default=None, description="of a replay: only what this system failed at")

    @property
    def summary(self) -> str:
        """What it looks at, in a few words, for the name of a run."""
        parts = ["replay" if self.replay else "", *self.causes, self.system or ""]
        if self.manifest:
            parts.append("uploads " + self.manifest.rpartition("/")[2].removesuffix(".json"))
        if self.prefix:
            parts.append(f"below {self.prefix}")
        if self.since:
            parts.append(f"since {self.since:%Y-%m-%d %H:%M}")
        if self.sample < 1:
            parts.append(f"a sample of {self.sample:.3g}")
        if self.limit:
            parts.append(f"at most {self.limit:,}")
        return " ".join(filter(None, parts)) or "everything"


EVERYTHING = Selection()
