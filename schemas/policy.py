"""What a run may do, how much it may take, and when it fails: the spec's `policy`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sightflow.schemas.enrichment import Delivery, Words

_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*(b|[kmgt]i?b)?\s*", re.IGNORECASE)
_UNITS = {"b": 1} | {f"{letter}ib": 2 ** (10 * k) for k, letter in enumerate("kmgt", 1)}
_UNITS |= {f"{letter}b": 10 ** (3 * k) for k, letter in enumerate("kmgt", 1)}
_LEAST_MEMORY = 64 * 2**20


class Section(BaseModel):
    """A part of a spec."""

    # Its errors show no values, which may be keys; numbers without an end could not be stored as JSON.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


def _memory_size(given: Any) -> Any:
    """A size in bytes from `4GiB`; the units are those of IEC (KiB, MiB, GiB, TiB) and SI (kB, MB, GB, TB)."""
    if given is None or (isinstance(given, int) and not isinstance(given, bool)):
        size = given
    else:
        found = _SIZE.fullmatch(given) if isinstance(given, str) else None
        if not found:
            raise ValueError("is no amount of memory; write it like 4GiB or 512MiB")
        size = int(float(found[1]) * _UNITS[(found[2] or "b").lower()])
    if size is not None and size < _LEAST_MEMORY:
        raise ValueError("is too little to decode images in; write 64MiB or more, or leave it out")
    return size


class Limits(Section):
    """What is refused before it is decoded."""

    max_bytes: int = Field(default=64 * 2**20, gt=0)
    max_pixels: int = Field(default=64_000_000, gt=0)
    max_video_bytes: int = Field(default=4 * 2**30, gt=0)
    max_seconds: float = Field(default=4 * 3600, gt=0)


class Upkeep(Section):
    """How the catalog's tables are looked after at the end of a run; no row is changed by it."""

    compact_files: int | None = Field(
        default=100, ge=2, description="small files in a partition that are joined; null: only by `catalog upkeep`"
    )
    keep_days: int = Field(default=30, ge=7, le=3650, description="how far back diff, restore and readers reach")


class Budget(Section):
    """US dollars that requests to providers may cost: of one run, and of all runs of a catalog in a day and a month of
    UTC. What is not given is not bounded, and counted all the same.
    """

    run: float | None = Field(default=None, gt=0, le=1e9, description="US dollars")
    day: float | None = Field(default=None, gt=0, le=1e9, description="US dollars")
    month: float | None = Field(default=None, gt=0, le=1e9, description="US dollars")


class Policy(Section):
    """What a run may do and when it fails."""

    stale: Literal["recompute", "keep"] = "recompute"
    prune: bool = False
    allow_empty: bool = Field(default=False, description="a source may list no object at all")
    max_quarantine_ratio: float = Field(default=0.1, ge=0, le=1)
    hosted: Literal["deny", "allow"] = "deny"
    licences: Words = Field(default=(), description="allowed licences; empty: all")
    commercial_use: bool = Field(default=False, description="only models known to allow commercial use")
    max_price_per_item: float | None = Field(default=None, ge=0, description="US dollars")
    gpu_hour_usd: float | None = Field(
        default=None, ge=0, description="what an hour of a model at work here costs, US dollars, for estimates"
    )
    budget: Budget | None = Field(default=None, description="a hard stop over all processes; unset, nothing is counted")
    languages: Words = Field(default=(), description="ISO 639 codes preferred, e.g. zh")
    fallback: bool = False
    delivery: Delivery = Field(default="direct", description="batch: hosted models by their vendor's batch API")
    shard_size: int = Field(default=2048, ge=1, le=10_000, description="most objects of a shard")
    shard_bytes: int = Field(default=128 * 2**20, gt=0, description="most bytes of a shard, as listed")
    shards_ahead: int = Field(default=3, ge=1, le=64, description="shards in flight at once")
    memory: Annotated[int | None, BeforeValidator(_memory_size)] = Field(
        default=None, description="for media and rows in each process that works; unset: half of what it may take"
    )
    commit_rows: int = Field(default=5000, ge=1)
    commit_seconds: float = Field(default=5.0, gt=0)
    limits: Limits = Limits()
    upkeep: Upkeep = Upkeep()
