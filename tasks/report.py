"""report: close a run: prune what is orphaned if asked, settle what is gone, and write down what was done."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff
from pydantic_core import to_json

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.upload_manifests import Manifests
from sightflow.schemas.failure import StoreError
from sightflow.schemas.redaction import redact_values
from sightflow.schemas.run.plan import RunPlan, Status
from sightflow.schemas.run.report import MaintenanceResult, RunReport
from sightflow.schemas.run.selection import Selection
from sightflow.schemas.run.timing import stage_times
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.tables.frames import to_frame
from sightflow.schemas.tables.runs import RUNS_SCHEMA, RunRow
from sightflow.tasks.open import open_store
from sightflow.tasks.runtime.publisher import Publisher


@task(retries=2, retry_delay_seconds=exponential_backoff(2), cache_policy=NO_CACHE, persist_result=False)
def prune(catalog: Catalog, run_plan: RunPlan, spec: EnrichmentSpec) -> int:
    """Remove the rows of objects that are gone, if the policy says so; return how many rows went.

    Where a `listing` takes the store's place, only of those that the store does not hold either.
    Refused when the source lists nothing at all: an empty listing is far more often a mistake than an empty bucket.
    """
    if not spec.policy.prune or run_plan.orphaned.is_empty():
        return 0
    if not run_plan.objects:
        raise StoreError(
            f"the source lists no object, and prune would empty the catalog of {run_plan.orphaned.height} objects; "
            "check `source`, or set policy.prune to false"
        )
    return catalog.prune(_still_missing(run_plan.orphaned, spec)["uri"].to_list())


@task(retries=2, retry_delay_seconds=exponential_backoff(2), cache_policy=NO_CACHE, persist_result=False)
def report(
    run_id: str,
    started_at: datetime,
    publisher: Publisher,
    run_plan: RunPlan,
    pruned: int,
    maintenance: Sequence[MaintenanceResult],
    spec: EnrichmentSpec,
) -> RunReport:
    """Settle the quarantine of objects that are gone and record the run; a run that changed nothing writes nothing."""
    catalog = publisher.catalog
    resolved = catalog.resolve(_still_missing(run_plan.orphaned_quarantine, spec))
    run_report = RunReport(
        run_id=run_id,
        catalog=spec.catalog,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        objects=run_plan.objects,
        planned=run_plan.to_compute,
        published=publisher.published,
        unchanged=run_plan.count(Status.UNCHANGED),
        orphaned=run_plan.orphaned.height,
        pruned=pruned,
        causes=dict(publisher.causes),
        plans=list(run_plan.plans),
        stages=stage_times(publisher.spans, publisher.elapsed_seconds),
        cost_usd=publisher.cost_usd,
        commits=publisher.commits + bool(pruned) + bool(resolved),
        upkeep=list(maintenance),
        catalog_version=catalog.version(),
        max_quarantine_ratio=spec.policy.max_quarantine_ratio,
        spec=spec,
    )
    if run_report.commits:
        catalog.record_run(_row(run_report))
    return run_report


@task(retries=2, retry_delay_seconds=exponential_backoff(2), cache_policy=NO_CACHE, persist_result=False)
def close_manifest(catalog: Catalog, selection: Selection) -> None:
    """Take away the manifest that a run was started with: what it lists has been seen to."""
    if selection.manifest is not None:
        Manifests(catalog).close(selection.manifest)


def _still_missing(missing: pl.DataFrame, spec: EnrichmentSpec) -> pl.DataFrame:
    """The rows, by `uri`, of objects that are gone now: a listing may be older than what it does not name."""
    if not spec.listing or missing.is_empty():
        return missing
    return missing.join(open_store(spec.store).head_many(missing["uri"].to_list()), on="uri", how="anti")


def _row(run_report: RunReport) -> pl.DataFrame:
    """The row of `runs`: the fields of the report that are columns, and all of it as JSON; without keys."""
    fields = redact_values(run_report.model_dump(include=set(RUNS_SCHEMA)))
    report = to_json(redact_values(run_report.model_dump(mode="json"))).decode()
    return RunRow.validate(to_frame(RunRow, [{**fields, "report": report}]))
