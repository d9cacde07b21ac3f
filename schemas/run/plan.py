"""The plan: what a run will do, counted before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict

from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Delivery, Enrichment
from sightflow.schemas.money.estimate import Estimate
from sightflow.schemas.run.discovered import Skipped
from sightflow.schemas.run.timing import Span
from sightflow.schemas.tables.quarantine import FailedItem


class Status(StrEnum):
    """How an enrichment of an object stands before a run."""

    NEW = "new"
    CHANGED = "changed"  # the object's bytes changed
    STALE = "stale"  # same bytes; model, prompt, parameters or schema changed
    UNCHANGED = "unchanged"
    UNDER_WAY = "under way"  # asked already by a batch whose results are still to be collected
    QUARANTINED = "quarantined"  # failed before for a permanent cause, and nothing changed since


class Candidate(BaseModel):
    """One system in the ranking for an enrichment, and why it is or is not the choice.

    `system`: its name, or that of an entry of `models`. `rating`: 0 (cannot) to 5; None: unrated. `price_per_item`: US
    dollars.
    """

    system: str
    model_id: str
    rating: int | None
    hosted: bool
    price_per_item: float
    usable: bool
    why: str
    notice: str = ""


class Route(BaseModel):
    """Which systems serve an enrichment, best first, and the reason of every place in the ranking."""

    capability: Capability
    media_kind: MediaKind
    candidates: list[Candidate]

    @property
    def systems(self) -> list[str]:
        """The usable systems, best first."""
        return [c.system for c in self.candidates if c.usable]

    @property
    def notice(self) -> str:
        """What the weights of the choice say of themselves."""
        return self.candidates[0].notice


class DeliveryChoice(BaseModel):
    """How an enrichment's requests reach the model. `note`: why not by batch, where that is wished for.

    `price_share`: of the price of direct requests.
    """

    model_config = ConfigDict(frozen=True)

    by: Delivery = "direct"
    note: str = ""
    price_share: float = 1.0


DIRECTLY = DeliveryChoice()


class EnrichmentPlan(BaseModel):
    """What will be done for one enrichment and one media kind: `counts`, `to_compute` objects, `price` dollars.

    `stale_because`: what has changed since its stale rows were computed. `estimate`: what the price comes of.
    """

    enrichment: str
    capability: Capability
    media_kind: MediaKind
    route: Route
    recipe: str
    counts: dict[Status, int]
    to_compute: int
    price: float
    stale_because: list[str] = []
    estimate: Estimate = Estimate()
    delivery: DeliveryChoice = DIRECTLY


@dataclass(frozen=True)
class ResolvedEnrichment:
    """An enrichment bound to its recipe: all that its result depends on besides the object.

    `systems`: who may answer, best first; the recipe is that of the first.
    """

    enrichment: Enrichment
    recipe: str
    systems: tuple[str, ...]
    media_kind: MediaKind
    delivery: DeliveryChoice = DIRECTLY


class RoutedEnrichment(NamedTuple):
    """A resolved enrichment and the route that chose its systems."""

    resolved: ResolvedEnrichment
    route: Route


@dataclass(frozen=True)
class ShardItem:
    """One object of a shard and the names of the enrichments still to be computed for it.

    `replaced`: those among them that had a row in the catalog when the run was planned.
    """

    uri: str
    object_version: str
    bytes: int
    enrichments: tuple[str, ...]
    replaced: tuple[str, ...] = ()


class Shard:
    """The unit of work: some objects of one media kind for one system, with all that is asked of them in one way.

    A plain class: Prefect would look into each of its items, for every task that is given it.
    """

    def __init__(
        self,
        index: int,
        system: str,
        media_kind: MediaKind,
        items: tuple[ShardItem, ...],
        resolved_enrichments: tuple[ResolvedEnrichment, ...],
        delivery: Delivery = "direct",
    ) -> None:
        self.index = index
        self.system = system
        self.media_kind = media_kind
        self.items = items
        self.resolved_enrichments = resolved_enrichments
        self.delivery = delivery

    @property
    def size(self) -> int:
        """How many enrichments are to be computed."""
        return sum(len(item.enrichments) for item in self.items)

    @property
    def replaced(self) -> list[tuple[str, str]]:
        """The keys (uri, enrichment) that had a row in the catalog when the run was planned."""
        return [(item.uri, name) for item in self.items for name in item.replaced]

    def resolved(self, name: str) -> ResolvedEnrichment:
        """The enrichment of a name, with its recipe."""
        return next(resolved for resolved in self.resolved_enrichments if resolved.enrichment.name == name)


@dataclass(frozen=True, eq=False)
class RunPlan:
    """All a run has to do.

    `frame`: uri, object_version, bytes, media_kind, system, delivery, enrichments, and which of these have a row that
    will be `replaced`; sorted so that a system is loaded once. `version`: of the table `enrichments` that was compared.
    `orphaned_rows`, `orphaned_quarantine`: uri, enrichment, fingerprint; in the catalog and in the quarantine, covered
    by the source, and no longer listed. `settled`: uri, enrichment; in the quarantine, with a row that is up to date.
    `not_asked`: listed objects, by kind, that no enrichment is asked of. `failed_lookups`: what was named and could not
    be looked up. `skipped`: what could not be listed. `spans`: when it was listed and planned.
    """

    frame: pl.DataFrame
    orphaned_rows: pl.DataFrame
    orphaned_quarantine: pl.DataFrame
    resolved_enrichments: tuple[ResolvedEnrichment, ...]
    plans: tuple[EnrichmentPlan, ...]
    objects: int
    not_asked: dict[MediaKind, int]
    settled: pl.DataFrame = field(default_factory=pl.DataFrame)
    failed_lookups: tuple[FailedItem, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    version: int | None = None
    spans: tuple[Span, ...] = ()

    @cached_property
    def orphaned(self) -> pl.DataFrame:
        """The objects that are gone from the source: uri, and how many `rows` the catalog has of each."""
        return self.orphaned_rows.group_by("uri").len("rows").sort("uri")

    @property
    def to_compute(self) -> int:
        return sum(plan.to_compute for plan in self.plans)

    @property
    def price(self) -> float:
        return sum(plan.price for plan in self.plans)

    @property
    def seconds(self) -> float | None:
        """What all of it takes; None if that is known of nothing, or not of all."""
        times = [plan.estimate.seconds for plan in self.plans if plan.to_compute]
        return sum(time for time in times if time is not None) if times and None not in times else None

    def changes_nothing(self, prune: bool) -> bool:
        """Whether there is nothing to compute, to settle or to quarantine, and, with `prune`, nothing to remove."""
        to_remove = [self.orphaned_quarantine, *([self.orphaned_rows] if prune else [])]
        is_settled = self.settled.is_empty() and not self.failed_lookups
        return not self.to_compute and is_settled and all(rows.is_empty() for rows in to_remove)

    def count(self, status: Status) -> int:
        return sum(plan.counts.get(status, 0) for plan in self.plans)


def not_asked(counts: Mapping[MediaKind, int]) -> str:
    """In words, e.g. `not asked: 3 videos, since no enrichment takes any`."""
    objects = ", ".join(f"{count:,} {kind}{'s' if count != 1 else ''}" for kind, count in counts.items())
    return f"not asked: {objects}, since no enrichment takes any"
