"""The second half of what goes by batch: fetch what vendors have answered, hours later and from anywhere."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from sightflow.schemas.run.report import QuarantineExceeded, RunReport
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.batches.budget import settle_left
from sightflow.tasks.batches.collection import Collection
from sightflow.tasks.batches.poll import poll, unsettled
from sightflow.tasks.batches.report import report_collection
from sightflow.tasks.maintain import maintain
from sightflow.tasks.open import open_catalog
from sightflow.tasks.runtime.cancellation import RunStopped, is_asked_to_stop
from sightflow.tasks.runtime.run_start import run_start
from sightflow.tasks.runtime.spending import spending
from sightflow.tasks.runtime.task_runner import WorkerPool
from sightflow.tasks.validate import validate


@flow(name="collect", persist_result=False)
def collect(spec: EnrichmentSpec) -> RunReport:
    """Publish the results of the batches that have ended, and settle those that a killed run has left:
    poll -> download -> [validate -> publish] per thousand rows -> close, for each batch of the catalog.

    Raises, when every batch has been seen to, the first error that any has met, and QuarantineExceeded, with everything
    good published, if more failed than the policy allows.
    """
    start, run_id = run_start(), flow_run.id or ""
    catalog = open_catalog(spec)
    collection = Collection(catalog, spec, run_id)
    settle_left(catalog, spec)
    with spending(spec, run_id, None, WorkerPool()):  # for replies that cannot be read, which are asked once more
        for batch in unsettled(catalog):
            if is_asked_to_stop():
                raise RunStopped
            with collection.about(batch):
                polled = poll(catalog, batch, spec)
                collection.polled(polled)
                if polled.has_results:
                    for shard, replies in collection.results():
                        collection.publish(validate(shard, replies, run_id))
                collection.close()
        maintenance = maintain(catalog, collection.commits, spec.policy)
        run_report = report_collection(run_id, start, collection, maintenance)
        if collection.errors:
            raise collection.errors[0]
    if not run_report.within_policy:
        raise QuarantineExceeded(run_report)
    return run_report
