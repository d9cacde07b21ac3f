"""report: write down what a run of `collect` did."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sightflow.schemas.run.report import MaintenanceResult, RunReport
from sightflow.tasks.batches.collection import Collection
from sightflow.tasks.report import run_row
from sightflow.tasks.retries import retried_task
from sightflow.tasks.runtime.run_start import RunStart


@retried_task(task_run_name="report")
def report_collection(
    run_id: str, start: RunStart, collection: Collection, maintenance: Sequence[MaintenanceResult]
) -> RunReport:
    """What was published and quarantined, batch by batch; one that changed the catalog is a row of `runs`."""
    outcomes, catalog = collection.outcomes, collection.catalog
    bills = collection.bills.bills()
    run_report = RunReport(
        run_id=run_id,
        catalog=catalog.uri,
        started_at=start.began,
        finished_at=datetime.now(UTC),
        objects=0,
        planned=sum(outcome.published + outcome.quarantined for outcome in outcomes),
        published=collection.published,
        unchanged=0,
        orphaned=0,
        pruned=0,
        causes=dict(collection.causes),
        cost_usd=collection.cost_usd,
        estimated_usd=sum(bill.estimated_usd for bill in bills),
        bills=bills,
        commits=collection.commits,
        upkeep=list(maintenance),
        catalog_version=catalog.version(),
        max_quarantine_ratio=collection.spec.policy.max_quarantine_ratio,
        batches=list(outcomes),
        spec=collection.spec,
    )
    if run_report.commits:
        catalog.record_run(run_row(run_report))
    return run_report
