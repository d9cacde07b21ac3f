"""The run report: what was done, skipped and quarantined, and where the time went."""

from __future__ import annotations

import shlex
from datetime import datetime

from pydantic import BaseModel, Field, computed_field

from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Cause, SightflowError, Stage
from sightflow.schemas.run.discovered import Skipped
from sightflow.schemas.run.plan import EnrichmentPlan
from sightflow.schemas.run.timing import OTHER, StageTime, StartTimes
from sightflow.schemas.spec import EnrichmentSpec


class MaintenanceResult(BaseModel):
    """What upkeep did to one table of the catalog; `skipped` says why it did nothing."""

    table: str
    files_before: int
    files_after: int
    vacuumed: int = Field(default=0, description="files that were taken away, which no kept version needs")
    skipped: str = ""

    @property
    def summary(self) -> str:
        """As on the screen, e.g. `enrichments: 100 files joined into 1`."""
        if self.skipped:
            return f"{self.table}: left as it is, {self.skipped}"
        joined = self.files_after < self.files_before
        parts = [f"{self.files_before:,} files joined into {self.files_after:,}" if joined else "no files to join"]
        if self.vacuumed:
            parts.append(f"{self.vacuumed:,} old files removed")
        return f"{self.table}: {', '.join(parts)}"


class RunReport(BaseModel):
    """What one run did, what came before its first answers, and what each of its `stages` did with the time.

    `objects` and `orphaned` count objects of the source and of the catalog; `planned`, `published`, `unchanged` and
    `causes` enrichments of objects; `pruned` rows. `cost_usd`: US dollars.
    """

    run_id: str
    catalog: str
    started_at: datetime
    finished_at: datetime
    objects: int
    planned: int
    published: int
    unchanged: int
    orphaned: int
    pruned: int
    not_asked: dict[MediaKind, int] = Field(default_factory=dict, description="objects that no enrichment takes")
    causes: dict[Cause, int] = Field(default_factory=dict)
    skipped: list[Skipped] = Field(default_factory=list, description="what could not be listed or looked up")
    plans: list[EnrichmentPlan] = Field(default_factory=list)
    start: StartTimes = Field(default_factory=StartTimes)
    stages: dict[Stage, StageTime] = Field(default_factory=dict)
    wall_seconds: dict[str, float] = Field(default_factory=dict, description="of the whole run, each counted once")
    cost_usd: float = 0.0
    commits: int = 0
    upkeep: list[MaintenanceResult] = Field(default_factory=list)
    catalog_version: int | None = None
    max_quarantine_ratio: float = 1.0
    spec: EnrichmentSpec | None = Field(default=None, description="what was run, for a replay; it holds no keys")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def quarantined(self) -> int:
        return sum(self.causes.values())

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bottleneck(self) -> str | None:
        """The stage or step of the start that the largest part of the time went to; None where nothing was done."""
        at_work = {kind: seconds for kind, seconds in self.wall_seconds.items() if kind != OTHER}
        return max(at_work, key=lambda kind: at_work[kind], default=None) if self.commits else None

    @property
    def summary(self) -> str:
        """The counts, e.g. `24 published, 1 quarantined, 10 unchanged, 0 pruned`."""
        return (
            f"{self.published:,} published, {self.quarantined:,} quarantined, "
            f"{self.unchanged:,} unchanged, {self.pruned:,} pruned"
        )

    @property
    def next_command(self) -> tuple[str, ...]:
        """What to type to see what failed or, if nothing did, what there is."""
        return ("sightflow", *(("quarantine", "list") if self.causes else ("catalog", "show")), self.catalog)

    @property
    def attempted(self) -> int:
        return self.published + self.quarantined

    @property
    def within_policy(self) -> bool:
        """Whether no more items failed than the policy allows."""
        return self.quarantined <= self.max_quarantine_ratio * self.attempted


class QuarantineExceeded(SightflowError):
    """More items failed than the policy allows. What was good has been published; `report` says all."""

    def __init__(self, report: RunReport) -> None:
        super().__init__(
            f"{report.quarantined} of {report.attempted} items failed, more than policy.max_quarantine_ratio "
            f"({report.max_quarantine_ratio:g}) allows; what was good is published. "
            f"See: {shlex.join(('sightflow', 'quarantine', 'list', report.catalog))}"
        )
        self.report = report
