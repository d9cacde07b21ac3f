"""cancel: have a vendor do no more of a batch."""

from __future__ import annotations

from sightflow.blocks.catalog.batch_log import BatchLog
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.run.batch import Batch
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.tables.batches import BatchState
from sightflow.tasks.batches.budget import holds_of
from sightflow.tasks.batches.poll import delivery_of, poll


def cancel_batch(catalog: Catalog, batch: Batch, spec: EnrichmentSpec) -> str:
    """Cancel a batch at its vendor, or give up one that the vendor does not know; return what is now so, in words.

    What has been done of it is paid, and is published by the next `collect`. Raises SpecError, ModelError, StoreError.
    """
    if batch.state in (BatchState.RECORDED, BatchState.CREATING):
        polled = poll.fn(catalog, batch, spec)
        batch = polled.batch
        if batch.state is not BatchState.SUBMITTED:
            return f"{batch.state}: {polled.note}"
    if batch.state is not BatchState.SUBMITTED:
        return f"it is {batch.state}, and there is nothing to cancel"
    delivery = delivery_of(batch, spec)
    if delivery.look_up(batch.vendor_batch or "") is None:
        BatchLog(catalog).advance(batch, BatchState.CLOSED, message=f"given up: {batch.vendor} does not know it")
        holds_of(spec).settle_as_unknown(batch.batch_id)
        return f"{batch.vendor} knows no batch {batch.vendor_batch}: given up, and asked again by the next run"
    delivery.cancel(batch.vendor_batch or "")
    return f"{batch.vendor} has been told; what is done by then is published by: sightflow collect"
