"""poll: see to a batch: what a process that is gone has left of it, and how it stands at its vendor."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sightflow.blocks.catalog.batch_log import BatchLog, BatchOvertaken
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.models.contract import BatchDelivery, RemoteState
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.blocks.money.batch_holds import BatchHolds
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import ModelError
from sightflow.schemas.run.batch import Batch
from sightflow.schemas.run.owner import has_ended
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.tables.batches import BatchState
from sightflow.tasks.batches.budget import holds_of
from sightflow.tasks.batches.submit import abandon
from sightflow.tasks.retries import retried_task
from sightflow.tasks.runtime.loaded_models import LoadedModel, load_model

_logger = logging.getLogger(__name__)

LEASE = timedelta(hours=2)
"""After which a process that cannot be looked for is taken for gone; no file takes so long to send."""
SURE = timedelta(minutes=10)
"""After which a batch that a vendor does not list has not been begun: what was asked last has arrived by then."""
KEPT = timedelta(days=3)
"""After which a batch that a vendor does not know is given up: it has a day to do it, and the key may be another."""


@dataclass(frozen=True)
class Polled:
    """A batch as it stands now. `has_results`: they are to be collected here; `is_complete`: of all its requests.
    `note`: what is to be told.
    """

    batch: Batch
    has_results: bool = False
    note: str = ""
    is_complete: bool = False


def unsettled(catalog: Catalog) -> list[Batch]:
    """The batches of which something is left to do, the oldest first."""
    return [batch for batch in BatchLog(catalog).batches() if not batch.state.is_settled]


@retried_task(task_run_name="poll-{batch.batch_id}")
def poll(catalog: Catalog, batch: Batch, spec: EnrichmentSpec) -> Polled:
    """Ask how a batch stands, after what a process that is gone has left of it is settled.

    Raises SpecError if the spec knows no such model, ModelError if the vendor does not answer.
    """
    log, delivery, holds = BatchLog(catalog), delivery_of(batch, spec), holds_of(spec)
    try:
        if batch.state in (BatchState.RECORDED, BatchState.CREATING):
            batch, note = _settled(log, batch, delivery, holds)
            if batch.state is not BatchState.SUBMITTED:
                return Polled(batch, note=note)
        if batch.state is BatchState.COLLECTED:
            return Polled(batch)
        if batch.state is BatchState.COLLECTING and not _is_left(batch):
            return Polled(batch, note="another process collects it")
        return _looked_up(log, batch, delivery, holds)
    except BatchOvertaken as error:
        return Polled(batch, note=str(error))


def _settled(log: BatchLog, batch: Batch, delivery: BatchDelivery, holds: BatchHolds) -> tuple[Batch, str]:
    """What becomes of a batch that may not have been begun: begun after all, to be asked again, or not yet known."""
    files = [batch.input_file] if batch.input_file else []
    if batch.state is BatchState.CREATING:
        if found := delivery.find(batch.input_file, batch.batch_id):
            return log.advance(batch, BatchState.SUBMITTED, vendor_batch=found.id), ""
        if not _is_left(batch) or _age(batch) < SURE:
            return batch, "being submitted; whether the vendor has begun is not known yet"
        why = f"{batch.vendor} has not begun it"
        return abandon(log, batch, delivery, holds, why, files), "asked again by the next run"
    if not _is_left(batch):
        return batch, "being submitted"
    why = "its process ended before it was submitted"
    return abandon(log, batch, delivery, holds, why, files), "asked again by the next run"


def _looked_up(log: BatchLog, batch: Batch, delivery: BatchDelivery, holds: BatchHolds) -> Polled:
    remote = delivery.look_up(batch.vendor_batch or "")
    if remote is None:
        if datetime.now(UTC) - batch.recorded_at < KEPT:
            return Polled(batch, note=f"{batch.vendor} knows no batch {batch.vendor_batch} under this key; it is kept")
        log.advance(batch, BatchState.CLOSED, message=f"{batch.vendor} knows it no more")
        holds.settle_as_unknown(batch.batch_id)
        return Polled(batch, note=f"given up: {batch.vendor} knows it no more; asked again by the next run")
    if remote.state is RemoteState.RUNNING:
        return Polled(batch, note=remote.message or "the vendor works on it")
    said = remote.message or f"{remote.state} at {batch.vendor}"
    taken = log.advance(batch, BatchState.COLLECTING, result_files=remote.result_files, message=said)
    is_complete = remote.state is RemoteState.COMPLETED
    return Polled(taken, has_results=True, note="" if is_complete else said, is_complete=is_complete)


def _is_left(batch: Batch) -> bool:
    """Whether the process that took the last step is gone, or has forgotten it."""
    return has_ended(batch.owner) is True or _age(batch) > LEASE


def _age(batch: Batch) -> timedelta:
    return datetime.now(UTC) - batch.at


def model_of(batch: Batch, spec: EnrichmentSpec) -> LoadedModel:
    """The model that a batch is asked of, as the spec configures it now. Raises SpecError, ModelError."""
    return load_model(*spec.model_entry(batch.system))


def delivery_of(batch: Batch, spec: EnrichmentSpec) -> BatchDelivery:
    """The batch API of a batch's model. Raises SpecError, ModelError."""
    model: VisionModel = model_of(batch, spec).model
    problem = model.open_engine().batch_problem(_ANY, MediaKind.IMAGE)
    if problem:
        raise ModelError(f"{batch.system} as the spec configures it now has no batches: {problem}; see its `models`")
    return model.open_engine().batch_delivery()


_ANY = Enrichment(capability=Capability.IMAGE_CAPTIONING)
