"""cancel: have a vendor do no more of a batch."""

from __future__ import annotations

from sightflow.blocks.catalog.batch_log import BatchLog
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.models.contract import RemoteState
from sightflow.schemas.failure import SpecError
from sightflow.schemas.run.batch import Batch
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.tables.batches import BatchState
from sightflow.tasks.batches.budget import holds_of
from sightflow.tasks.batches.poll import delivery_of, not_ours, poll


def cancel_batch(catalog: Catalog, batch: Batch, spec: EnrichmentSpec, drop: bool = False) -> str:
    """Cancel a batch at its vendor, or give up one that the vendor does not know; return what is now so, in words.

    What has been done of it is paid, and is published by the next `collect`; unless it is to `drop`: then its files are
    removed, and all that it holds is asked again. Raises SpecError, ModelError, StoreError.
    """
    log = BatchLog(catalog)
    if why := not_ours(log, batch, spec):
        raise SpecError(f"{why}: cancel it with the spec that has asked it")
    if batch.state in (BatchState.RECORDED, BatchState.CREATING):
        polled = poll.fn(catalog, batch, spec)
        batch = polled.batch
        if batch.state is not BatchState.SUBMITTED:
            return f"{batch.state}: {polled.note}"
    if batch.state is not BatchState.SUBMITTED:
        return f"it is {batch.state}, and there is nothing to cancel"
    delivery = delivery_of(batch, spec)
    remote = delivery.look_up(batch.vendor_batch or "")
    if remote is None:
        log.advance(batch, BatchState.CLOSED, message=f"given up: {batch.vendor} does not know it")
        holds_of(spec).settle_as_unknown(batch.batch_id)
        return f"{batch.vendor} knows no batch {batch.vendor_batch}: given up, and asked again by the next run"
    if remote.state is RemoteState.RUNNING:
        delivery.cancel(remote.id)
    if not drop:
        ended = "has been told" if remote.state is RemoteState.RUNNING else f"says that it is {remote.state}"
        return f"{batch.vendor} {ended}; what is done is published by: sightflow collect"
    log.advance(batch, BatchState.CLOSED, message="given up")
    holds_of(spec).settle_as_unknown(batch.batch_id)
    files = [file for file in (batch.input_file, *remote.result_files) if file]
    delivery.remove(files, batch.vendor_batch)
    return "given up: what it holds is asked again by the next run, and paid again where it was done"
