"""report: close a run: prune what is orphaned if asked, settle what is gone, and write down what was done."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import polars as pl
from pydantic_core import to_json

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.upload_manifests import Manifests
from sightflow.schemas.failure import BudgetMet, Failure
from sightflow.schemas.redaction import redact_values
from sightflow.schemas.run.discovered import Skipped, Skips
from sightflow.schemas.run.plan import EnrichmentPlan, RunPlan, Status
from sightflow.schemas.run.report import MaintenanceResult, RunReport
from sightflow.schemas.run.selection import Selection
from sightflow.schemas.run.timing import Span, stage_times, start_times, wall_seconds
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.tables.frames import to_frame
from sightflow.schemas.tables.quarantine import quarantine_rows
from sightflow.schemas.tables.runs import RUNS_SCHEMA, RunRow
from sightflow.tasks.open import open_store
from sightflow.tasks.retries import retried_task
from sightflow.tasks.runtime.run_start import RunStart

if TYPE_CHECKING:
    from sightflow.tasks.runtime.publisher import Publisher

_LOOKED_UP_AT_ONCE = 2000  # rows go right after, so that what comes back meanwhile is seen


@dataclass(frozen=True)
class Pruned:
    """How many `rows` were removed, and the objects whose rows stay since nobody can say whether they are gone."""

    rows: int = 0
    skipped: tuple[Skipped, ...] = ()


@retried_task()
def prune(catalog: Catalog, run_plan: RunPlan, spec: EnrichmentSpec) -> Pruned:
    """Remove the rows of objects that are gone, if the policy says so.

    Each object is looked up right before: the listing was made when the run began. A row goes only if the storage
    itself says that the object is not there, and if the row is still the one that was planned.
    """
    if not spec.policy.prune:
        return Pruned()
    rows, skips = 0, Skips()
    for gone in _gone(run_plan.orphaned_rows, spec, skips):
        rows += catalog.prune(gone)
    return Pruned(rows, skips.summary)


@retried_task()
def report(
    run_id: str,
    start: RunStart,
    publisher: Publisher,
    run_plan: RunPlan,
    pruned: Pruned,
    maintenance: Sequence[MaintenanceResult],
    spec: EnrichmentSpec,
    met: BudgetMet | None = None,
) -> RunReport:
    """Settle the quarantine and record the run; a run that changed nothing writes nothing.

    What is gone or up to date leaves the quarantine, and what could not be looked up comes into it. `met`: why the
    budget did not allow everything.
    """
    catalog, failed = publisher.catalog, run_plan.failed_lookups
    resolved = catalog.resolve(run_plan.settled)
    for gone in _gone(run_plan.orphaned_quarantine, spec, Skips()):
        resolved += catalog.resolve(gone)
    quarantined = catalog.quarantine(quarantine_rows(failed, run_id))
    run_report = _report(
        run_id,
        start,
        run_plan,
        spec,
        published=publisher.published,
        submitted=publisher.submitted.total(),
        submitted_usd=_expected([each for each in run_plan.plans if each.delivery.by == "batch"], publisher.submitted),
        pruned=pruned.rows,
        causes=dict(publisher.causes + Counter(item.failure.cause for item in failed)),
        skipped=[*run_plan.skipped, *pruned.skipped],
        spans=[*start.spans, *run_plan.spans, *publisher.spans],
        stages=stage_times(publisher.spans, publisher.elapsed_seconds),
        cost_usd=publisher.cost_usd,
        bills=publisher.bills.of(run_plan.plans, run_plan.frame, publisher.elapsed_seconds, spec.policy.gpu_hour_usd),
        **(_left(run_plan, publisher.done, met) if met else {}),
        commits=publisher.commits + bool(pruned.rows) + bool(resolved) + (quarantined.version is not None),
        upkeep=list(maintenance),
        catalog_version=catalog.version(),
    )
    if run_report.commits or run_report.submitted:
        catalog.record_run(run_row(run_report))
    return run_report


def _left(run_plan: RunPlan, done: Counter[str], met: BudgetMet) -> dict[str, Any]:
    """What a run that met its budget has left, by the plan."""
    left = Counter[str]()
    for each in run_plan.plans:
        left[each.enrichment] += each.to_compute
    left -= done
    return {"left": left.total(), "left_usd": _expected(run_plan.plans, left), "over_budget": str(met)}


def _expected(plans: Sequence[EnrichmentPlan], items: Mapping[str, int]) -> float:
    """What so many items of each enrichment, by name, cost by their plans, US dollars."""
    counts, prices = Counter[str](), defaultdict[str, float](float)
    for each in plans:
        counts[each.enrichment] += each.to_compute
        prices[each.enrichment] += each.price
    return sum(prices[name] * items.get(name, 0) / count for name, count in counts.items() if count)


def report_of_nothing(start: RunStart, run_plan: RunPlan, spec: EnrichmentSpec) -> RunReport:
    """As `report`, of a run whose plan changes nothing: nothing is looked up, written or told to Prefect."""
    return _report(
        str(uuid4()),
        start,
        run_plan,
        spec,
        published=0,
        pruned=0,
        skipped=list(run_plan.skipped),
        spans=[*start.spans, *run_plan.spans],
        catalog_version=run_plan.version,
    )


def _report(
    run_id: str, begun: RunStart, run_plan: RunPlan, spec: EnrichmentSpec, /, spans: Sequence[Span], **done: Any
) -> RunReport:
    """What was planned, what was `done` of it, and where the time went."""
    finished_at = datetime.now(UTC)
    began = min([begun.began.timestamp(), *(span.start for span in spans)])
    return RunReport(
        run_id=run_id,
        catalog=spec.catalog,
        started_at=begun.began,
        finished_at=finished_at,
        start=start_times(spans),
        wall_seconds=wall_seconds(spans, began, finished_at.timestamp()),
        objects=run_plan.objects,
        planned=run_plan.to_compute,
        estimated_usd=sum(each.price for each in run_plan.plans if each.delivery.by == "direct"),
        unchanged=run_plan.count(Status.UNCHANGED),
        orphaned=run_plan.orphaned.height,
        not_asked=run_plan.not_asked,
        plans=list(run_plan.plans),
        max_quarantine_ratio=spec.policy.max_quarantine_ratio,
        spec=spec,
        **done,
    )


@retried_task()
def close_manifest(catalog: Catalog, selection: Selection) -> None:
    """Take away the manifest that a run was started with: what it lists has been seen to."""
    if selection.manifest is not None:
        Manifests(catalog).close(selection.manifest)


def _gone(rows: pl.DataFrame, spec: EnrichmentSpec, skips: Skips) -> Iterator[pl.DataFrame]:
    """The rows of objects that are gone now, some thousands at a time; what leaves a doubt goes to `skips`."""
    if rows.is_empty():
        return
    store = open_store(spec.store)
    uris = rows["uri"].unique(maintain_order=True)
    for start in range(0, len(uris), _LOOKED_UP_AT_ONCE):
        failed: dict[str, Failure] = {}
        gone = store.gone(uris[start : start + _LOOKED_UP_AT_ONCE].to_list(), failed)
        for uri, failure in failed.items():
            skips.add(uri, f"it stays in the catalog: {failure.message}")
        if gone:
            yield rows.filter(pl.col("uri").is_in(gone))


def run_row(run_report: RunReport) -> pl.DataFrame:
    """The row of `runs`: the fields of the report that are columns, and all of it as JSON; without keys."""
    fields = redact_values(run_report.model_dump(include=set(RUNS_SCHEMA)))
    report = to_json(redact_values(run_report.model_dump(mode="json"))).decode()
    return RunRow.validate(to_frame(RunRow, [{**fields, "report": report}]))
