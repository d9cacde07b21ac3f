"""poll: see to a batch: what a process that is gone has left of it, and how it stands at its vendor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from sightflow.schemas.run.batch import Batch, BatchedRequest
from sightflow.schemas.run.owner import has_ended
from sightflow.schemas.run.plan import ResolvedEnrichment
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
    `note`: what is to be told. `is_ours`: whether the spec that polls it is the one to see to it.
    """

    batch: Batch
    has_results: bool = False
    is_ours: bool = True
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
    log, holds = BatchLog(catalog), holds_of(spec)
    if datetime.now(UTC) - batch.recorded_at < KEPT and (why := not_ours(log, batch, spec)):
        return Polled(batch, note=f"{why}; it is kept", is_ours=False)
    delivery = delivery_of(batch, spec)
    try:
        if batch.state in (BatchState.RECORDED, BatchState.CREATING):
            batch, note = _settled(log, batch, delivery, holds)
            if batch.state is not BatchState.SUBMITTED:
                return Polled(batch, note=note)
        if batch.state is BatchState.COLLECTED:
            return Polled(batch)
        if batch.state is BatchState.COLLECTING and not _is_left(batch):
            return Polled(batch, note="another process collects it")
        return _looked_up(log, batch, delivery, holds, spec)
    except BatchOvertaken as error:
        return Polled(batch, note=str(error))


def not_ours(log: BatchLog, batch: Batch, spec: EnrichmentSpec) -> str | None:
    """Why a batch is another spec's of the same catalog, which has another key perhaps; None if it is this one's."""
    asked = {each.name for each in log.enrichments(batch)}
    if asked.isdisjoint(each.name for each in spec.enrichments):
        return f"it asks {', '.join(sorted(asked))}, which this spec does not; the spec that does collects it"
    vendor = delivery_of(batch, spec).vendor
    return None if vendor == batch.vendor else f"{batch.system} was asked at {batch.vendor}, and is at {vendor} here"


def _settled(log: BatchLog, batch: Batch, delivery: BatchDelivery, holds: BatchHolds) -> tuple[Batch, str]:
    """What becomes of a batch that may not have been begun: begun after all, to be asked again, or not yet known."""
    files = [batch.input_file] if batch.input_file else []
    if batch.state is BatchState.CREATING:
        if found := delivery.find(batch.input_file, batch.batch_id):
            return log.advance(batch, BatchState.SUBMITTED, vendor_batch=found.id), ""
        if not _is_left(batch) or _age(batch) < SURE:
            return batch, "being submitted; whether the vendor has begun is not known yet"
        if datetime.now(UTC) - batch.recorded_at < KEPT and not delivery.has_file(batch.batch_id):
            return batch, f"{batch.vendor} has neither it nor its file under this key, which may be another; it is kept"
        why = f"{batch.vendor} has not begun it"
        return abandon(log, batch, delivery, holds, why, files), "asked again by the next run"
    if not _is_left(batch):
        return batch, "being submitted"
    why = "its process ended before it was submitted"
    return abandon(log, batch, delivery, holds, why, files), "asked again by the next run"


def _looked_up(log: BatchLog, batch: Batch, delivery: BatchDelivery, holds: BatchHolds, spec: EnrichmentSpec) -> Polled:
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
    if not resolved_of(*log.requests(batch), model_of(batch, spec)):
        other = f"{said}, and the spec configures {batch.system} otherwise than the one it was asked with"
        return Polled(batch, note=f"{other}: collect it with that one, or: sightflow batches cancel SPEC ID --drop")
    taken = log.advance(batch, BatchState.COLLECTING, result_files=remote.result_files, message=said)
    is_complete = remote.state is RemoteState.COMPLETED
    return Polled(taken, has_results=True, note="" if is_complete else said, is_complete=is_complete)


def resolved_of(
    requests: Sequence[BatchedRequest], enrichments: Sequence[Enrichment], loaded: LoadedModel
) -> dict[str, ResolvedEnrichment]:
    """The enrichments of a batch by name, each bound to the recipe that was asked; none at all if the model, as it is
    configured now, has another recipe for any: it would not read the replies as that one did.
    """
    recipes = {(request.enrichment, request.media_kind): request.recipe for request in requests}
    resolved: dict[str, ResolvedEnrichment] = {}
    for enrichment in enrichments:
        for kind in MediaKind:
            if (recipe := recipes.get((enrichment.name, kind.value))) is None:
                continue
            if loaded.model.recipe(enrichment, kind) != recipe:
                return {}
            resolved[enrichment.name] = ResolvedEnrichment(enrichment, recipe, (loaded.model.name_in_spec,), kind)
    return resolved


def _is_left(batch: Batch) -> bool:
    """Whether the process that took the last step is gone, or has forgotten it."""
    return has_ended(batch.owner) is True or _age(batch) > LEASE


def _age(batch: Batch) -> timedelta:
    return datetime.now(UTC) - batch.reached_at


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
