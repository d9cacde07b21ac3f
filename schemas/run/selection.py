"""A part of the work: what one run looks at, so that a backfill goes in steps and what failed is tried again."""

from __future__ import annotations

import hashlib

import polars as pl
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from sightflow.schemas.failure import Cause
from sightflow.schemas.object_uri import ROOT_PATTERN


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

    def of(self, inventory: pl.DataFrame) -> pl.DataFrame:
        """The objects of an `Inventory` that are looked at, by name, time and share; a sample is always the same."""
        if self.prefix:
            key = pl.col("uri").str.replace(ROOT_PATTERN, "")
            begins = pl.col("uri").str.starts_with(self.prefix) | key.str.starts_with(self.prefix.lstrip("/"))
            inventory = inventory.filter(begins)
        if self.since is not None:
            inventory = inventory.filter(pl.col("modified") >= self.since)
        if self.sample < 1:
            share = [
                int.from_bytes(hashlib.sha256(uri.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64
                for uri in inventory["uri"]
            ]
            inventory = inventory.filter(pl.Series(share, dtype=pl.Float64()) < self.sample)
        return inventory

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
