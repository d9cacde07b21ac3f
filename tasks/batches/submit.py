"""submit: write a shard's requests into files, record what they hold, and have the vendor begin."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from sightflow.blocks.catalog.batch_log import BatchLog, BatchOvertaken
from sightflow.blocks.models.contract import BatchDeclined, BatchDelivery, BatchLine, GenerationRequest, ReplyError
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.blocks.money.batch_holds import BatchHolds
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import BudgetMet, Cause, Failure, ModelError, RequestTooExpensive, Stage
from sightflow.schemas.run.batch import Batch, BatchedRequest
from sightflow.schemas.run.plan import Shard
from sightflow.schemas.run.timing import Span, StartStep, timed
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.tables.batches import BatchState
from sightflow.schemas.vision import Answer, Replies, VisionReply
from sightflow.tasks.batches.budget import SubmissionBudget
from sightflow.tasks.batches.request_file import RequestFile, batched_request
from sightflow.tasks.fetch import Fetched
from sightflow.tasks.media.request_batches import InferenceItem, image_batches
from sightflow.tasks.media.video_batches import video_batches
from sightflow.tasks.memory.limit import memory_budget
from sightflow.tasks.memory.pixel_budget import PixelBudget
from sightflow.tasks.open import open_catalog
from sightflow.tasks.runtime.cancellation import ShardSkipped, is_asked_to_stop, is_halted
from sightflow.tasks.runtime.loaded_models import load_model
from sightflow.tasks.runtime.temporary_folder import TemporaryFolder

_logger = logging.getLogger(__name__)
_ENCODERS = max(2, min(8, os.cpu_count() or 2))


@task(task_run_name="submit-{shard.index}-{shard.system}", cache_policy=NO_CACHE, persist_result=False)
def submit(shard: Shard, fetched: Fetched, spec: EnrichmentSpec, run_id: str) -> Replies:
    """Have a shard asked by its vendor's batch API; what cannot be made a request is an answer, a failure.

    Nothing of a batch is sent before what it holds is recorded in the catalog. Raises ShardSkipped, with nothing asked,
    if the run has been asked to stop; ModelError if the vendor does not take it, which is then asked by the next run;
    BudgetMet if the budget does not allow all of it: what it does allow was submitted.
    """
    if is_asked_to_stop():
        raise ShardSkipped(f"shard {shard.index} was not begun: the run has been asked to stop")
    spans, submitted, error = list(fetched.spans), Counter[str](), None
    with timed(spans, StartStep.MODEL):
        loaded = load_model(*spec.model_entry(shard.system))
        delivery = loaded.model.open_engine().batch_delivery()
    with TemporaryFolder("batch") as folder:
        file, budget = RequestFile(folder.path, delivery.limits), SubmissionBudget(spec, run_id)
        try:
            failures = _write(shard, fetched, spec, loaded.model, delivery, file, budget, spans)
            while file.rows:
                if is_halted():
                    raise ShardSkipped(f"shard {shard.index} was not asked any further: the run has ended")
                room = budget.room()
                if not (requests := file.first(room.left)):
                    raise BudgetMet(room.met)
                with timed(spans, Stage.INFER), file.written(requests) as path, suppress(_Outpaced):
                    send(path, requests, shard, spec, loaded.model.ref.id, delivery, run_id, budget)
                    keys = dict.fromkeys(request.key for request in requests)
                    submitted.update(name for _, name in keys)
                    for key in keys:
                        file.drop(key)
        except Exception as raised:  # whatever it is, what was submitted before is told
            if not failures and not submitted:
                raise
            error = raised
        finally:
            file.close()
    return Replies(failures, spans, error, submitted)


class _Outpaced(Exception):
    """Another process has reserved what was there a moment ago; less may still fit."""


def send(
    file: Path,
    requests: Sequence[BatchedRequest],
    shard: Shard,
    spec: EnrichmentSpec,
    model_id: str,
    delivery: BatchDelivery,
    run_id: str,
    budget: SubmissionBudget,
) -> None:
    """Record a batch, reserve what it may cost at most, upload its file, and have the vendor begin, in this order.

    A batch of which it is sure that the vendor has not begun is abandoned when this fails; any other is left to
    `collect`, which looks it up. Raises ModelError.
    """
    log = BatchLog(open_catalog(spec))
    known = {"run_id": run_id, "system": shard.system, "model_id": model_id, "vendor": delivery.vendor}
    names = {request.enrichment for request in requests}
    asked = [each.enrichment for each in shard.resolved_enrichments if each.enrichment.name in names]
    batch = log.record(requests, asked, **known)
    input_file = None
    try:
        budget.reserve(batch, requests)
    except BudgetMet as error:
        with suppress(BatchOvertaken):
            log.advance(batch, BatchState.ABANDONED, message=str(error))
        raise _Outpaced from None
    try:
        input_file = delivery.upload(file, batch.batch_id)
        batch = log.advance(batch, BatchState.CREATING, input_file=input_file)
        remote = delivery.create(input_file, batch.batch_id)
    except BatchOvertaken as error:
        _logger.warning("%s; it is not submitted from here", error)
        budget.holds.settle(batch.batch_id)  # who has given it up may have come before it held anything
        return
    except ModelError as error:
        if batch.state is BatchState.RECORDED or isinstance(error, BatchDeclined):
            abandon(log, batch, delivery, budget.holds, str(error), [input_file] if input_file else [])
        raise
    with suppress(BatchOvertaken):  # `collect` has found it at the vendor and said the same
        log.advance(batch, BatchState.SUBMITTED, vendor_batch=remote.id)


def abandon(
    log: BatchLog, batch: Batch, delivery: BatchDelivery, holds: BatchHolds, why: str, files: Sequence[str]
) -> Batch:
    """Give a batch up that the vendor was never told to begin, and give back what it held of the budget; what it is
    about is asked again.

    Raises BatchOvertaken if another process has gone on with it.
    """
    after = log.advance(batch, BatchState.ABANDONED, message=why)
    holds.settle(batch.batch_id)
    try:
        delivery.remove(files, None, batch.batch_id)
    except ModelError as error:
        _logger.warning("the file of the batch %s stays at %s: %s", batch.batch_id, batch.vendor, error)
    return after


def _write(
    shard: Shard,
    fetched: Fetched,
    spec: EnrichmentSpec,
    model: VisionModel,
    delivery: BatchDelivery,
    file: RequestFile,
    budget: SubmissionBudget,
    spans: list[Span],
) -> list[Answer]:
    """Write a shard's requests, encoded in threads; return what cannot be asked, an answer for each row."""
    failed: dict[tuple[str, str], Answer] = {}

    def line(item: InferenceItem) -> BatchLine | Failure:
        assert item.request is not None
        prompts = model.prompts_about([item.request])[0]
        if isinstance(prompts, Failure):
            return prompts
        (prompt,) = prompts  # of several there is no delivery by batch
        try:
            return delivery.line(batched_request(item).custom_id, GenerationRequest(item.request, prompt))
        except ReplyError as error:
            return Failure(error.cause, str(error))

    with ThreadPoolExecutor(_ENCODERS, thread_name_prefix="encode") as pool:
        for batch in media_batches(shard, fetched, spec, model, spans):
            asked = [item for item in batch if item.request is not None]
            for item, made in zip(asked, pool.map(line, asked), strict=True):
                try:
                    if isinstance(made, Failure):
                        raise ReplyError(made.message, made.cause)
                    file.add(batched_request(item, made.most_usd), made.content)
                    budget.check(file.most_of(_key(item)))
                except ReplyError as error:
                    failed.setdefault(_key(item), _answer(item, Failure(error.cause, str(error)), model))
                except RequestTooExpensive as error:
                    failed.setdefault(_key(item), _answer(item, Failure(Cause.BUDGET, str(error)), model))
            for item in batch:
                if item.failure is not None:
                    failed.setdefault(_key(item), _answer(item, item.failure, model))
    for key in failed:
        file.drop(key)
    return list(failed.values())


def media_batches(
    shard: Shard, fetched: Fetched, spec: EnrichmentSpec, model: VisionModel, spans: list[Span]
) -> Iterator[list[InferenceItem]]:
    """A shard's media as requests, read and decoded some at a time."""
    batches = video_batches if shard.media_kind is MediaKind.VIDEO else image_batches
    budget = PixelBudget(memory_budget(spec.policy).pixels)
    return batches(shard, fetched, spec.policy.limits, model, spans, budget)


def _key(item: InferenceItem) -> tuple[str, str]:
    return item.shard_item.uri, item.resolved.enrichment.name


def _answer(item: InferenceItem, failure: Failure, model: VisionModel) -> Answer:
    uri, name = _key(item)
    reply = VisionReply(uri, name, failure, model.name_in_spec, model.ref.id)
    return Answer(item.shard_item, item.resolved, item.facts, reply)
