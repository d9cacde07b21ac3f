"""The main job: bring a catalog up to date with its source."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from sightflow.schemas.failure import BudgetMet
from sightflow.schemas.run.report import QuarantineExceeded, RunOverBudget, RunReport
from sightflow.schemas.run.selection import EVERYTHING, Selection
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.batches.submit import submit
from sightflow.tasks.create_artifacts import create_artifacts
from sightflow.tasks.discover import discover
from sightflow.tasks.fetch import fetch
from sightflow.tasks.infer import infer
from sightflow.tasks.maintain import maintain
from sightflow.tasks.open import open_catalog
from sightflow.tasks.plan import plan
from sightflow.tasks.report import close_manifest, prune, report
from sightflow.tasks.runtime.publisher import Publisher
from sightflow.tasks.runtime.run_start import run_start
from sightflow.tasks.runtime.sharding import shards_of
from sightflow.tasks.runtime.spending import spending
from sightflow.tasks.runtime.task_runner import task_runner
from sightflow.tasks.validate import validate

THREADS: TaskRunner[Any] = ThreadPoolTaskRunner()


def run_name() -> str:
    """What a run is about and when it began, e.g. `shapes, uploads 20261125T0214-9f2a, 2026-11-25 02:14:07`."""
    given = flow_run.parameters
    spec = EnrichmentSpec.model_validate(given["spec"])
    selection = Selection.model_validate(given.get("selection") or {})
    catalog = spec.catalog.rpartition("/")[2]
    return f"{catalog}, {selection.summary}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@flow(name="enrich", flow_run_name=run_name, task_runner=THREADS, persist_result=False)
def enrich(spec: EnrichmentSpec, selection: Selection = EVERYTHING) -> RunReport:
    """Bring the catalog up to date with its source, or the selected part of it; return what was done, skipped and
    quarantined: discover -> plan -> [fetch -> infer -> validate -> publish] per shard -> report. What goes by batch is
    submitted in the place of infer, and published by the flow `collect`.

    Raises QuarantineExceeded, with everything good published, if more failed than the policy allows; RunOverBudget,
    with everything that was answered published, if the budget did not allow the rest.
    """
    start, run_id = run_start(), flow_run.id or ""
    catalog = open_catalog(spec)
    run_plan = start.run_plan or plan(discover(spec, selection), spec, selection)
    if run_plan.to_compute:
        catalog.check_writable()
    met: BudgetMet | None = None
    try:
        with (
            task_runner(spec.runner, needed=run_plan.to_compute > 0) as workers,
            spending(spec, run_id, selection, workers, run_plan.price),
            Publisher(catalog, run_plan, spec.policy, workers.worker_count, workers.memory, run_id) as publisher,
        ):
            # Each stage is given the future of the one before it, which Prefect waits for.
            for shard in publisher.throttled(shards_of(run_plan, publisher.policy, publisher.shard_sizer)):
                fetched = fetch.submit(shard, spec)
                if shard.delivery == "batch":
                    replies = submit.submit(shard, fetched, spec, run_id)  # type: ignore[call-overload]
                else:
                    with workers.on_a_device():
                        replies = infer.submit(shard, fetched, spec, run_id, selection.replay)  # type: ignore[call-overload]
                validated = validate.submit(shard, replies, run_id)
                publisher.publish(shard, fetched, replies, validated)
    except BudgetMet as error:
        met = error
    pruned = prune(catalog, run_plan, spec)
    maintenance = [*publisher.maintenance, *maintain(catalog, publisher.commits + bool(pruned.rows), spec.policy)]
    run_report = report(run_id, start, publisher, run_plan, pruned, maintenance, spec, met)
    if met is None:
        close_manifest(catalog, selection)
    create_artifacts(run_report, publisher.examples, spec)
    if run_report.over_budget:
        raise RunOverBudget(run_report)
    if not run_report.within_policy:
        raise QuarantineExceeded(run_report)
    return run_report
