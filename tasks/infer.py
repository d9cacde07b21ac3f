"""infer: ask the model about a shard, batch by batch, and gather one answer for all that was asked."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from prefect import task
from prefect.cache_policies import NO_CACHE

from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Cause, Failure, Stage
from sightflow.schemas.run.plan import Shard
from sightflow.schemas.run.timing import Span, timed
from sightflow.schemas.spec import EnrichmentSpec, Limits
from sightflow.schemas.vision import Answer, Replies, VisionReply, VisionRequest
from sightflow.tasks.fetch import Fetched
from sightflow.tasks.media.reply_assembler import ReplyAssembler
from sightflow.tasks.media.request_batches import InferenceItem, image_batches, video_batches
from sightflow.tasks.runtime.cancellation import ShardSkipped, is_asked_to_stop
from sightflow.tasks.runtime.loaded_models import LoadedModel, load_model
from sightflow.tasks.validate import failures_of

_logger = logging.getLogger(__name__)

_WORTH_ANOTHER_SYSTEM = frozenset(
    {Cause.MALFORMED, Cause.MODEL, Cause.RATE_LIMITED, Cause.REFUSED, Cause.SCHEMA, Cause.TRUNCATED}
)
_OF_THE_SYSTEM = frozenset({Cause.MODEL, Cause.RATE_LIMITED})


@task(task_run_name="infer-{shard.index}-{shard.system}", cache_policy=NO_CACHE, persist_result=False)
def infer(shard: Shard, fetched: Fetched, spec: EnrichmentSpec) -> Replies:
    """Decode and answer a shard: one answer for every enrichment of every item, results and failures alike.

    An item's failure is an answer; raises ModelError only for what concerns every item. Not retried as a whole:
    what can pass by itself (a busy provider, a full device) is retried inside the model, item by item.
    Raises ShardSkipped, with nothing asked, if the run has been asked to stop.
    """
    loaded = load_model(shard.system, spec.models.get(shard.system))
    spans = list(fetched.spans)
    assembler = ReplyAssembler(shard, fetched)
    begun = is_down = False
    for batch in _batches(shard, fetched, spec.policy.limits, loaded.model, spans):
        failed = [(item, _failed_answer(item, loaded.model)) for item in batch if item.request is None]
        items = [item for item in batch if item.request is not None]
        requests = [item.request for item in items if item.request]
        with loaded.slots:
            if is_asked_to_stop() and not begun:
                raise ShardSkipped(f"shard {shard.index} was not begun: the run has been asked to stop")
            begun = True
            with timed(spans, Stage.INFER):
                skipped = [is_down and len(item.resolved.systems) > 1 for item in items]
                replies = _run_unless_skipped(loaded, requests, skipped)
        answers = [
            Answer(item.shard_item, item.resolved, item.facts, reply)
            for item, reply in zip(items, replies, strict=True)
        ]
        if spec.policy.fallback:
            if not is_down and _looks_down(replies):
                is_down = True
                _logger.warning("shard %d: %s looks down; the next system is asked", shard.index, shard.system)
            with timed(spans, Stage.INFER):
                answers = _with_fallback(answers, requests, spec)
        assembler.add([*failed, *zip(items, answers, strict=True)])
    return Replies(assembler.answers(), spans)


def _batches(
    shard: Shard, fetched: Fetched, limits: Limits, model: VisionModel, spans: list[Span]
) -> Iterator[list[InferenceItem]]:
    if shard.media_kind is MediaKind.VIDEO:
        return video_batches(shard, fetched, limits, model, spans)
    return image_batches(shard, fetched, limits, model, spans)


def _failed_answer(item: InferenceItem, model: VisionModel) -> Answer:
    """The answer to what could not be made a request."""
    assert item.failure is not None
    uri, enrichment = item.shard_item.uri, item.resolved.enrichment
    reply = VisionReply(uri, enrichment.name, item.failure, model.system, model.ref.id)
    return Answer(item.shard_item, item.resolved, None, reply)


def _run_unless_skipped(
    loaded: LoadedModel, requests: Sequence[VisionRequest], skipped: Sequence[bool]
) -> list[VisionReply]:
    """The replies to requests; those skipped are not sent, and fail as what was sent before them did."""
    sent = [request for request, skip in zip(requests, skipped, strict=True) if not skip]
    replies = iter(_run(loaded, sent))
    model = loaded.model
    failure = Failure(Cause.MODEL, f"not asked: {model.system} failed for all that was asked before", attempts=0)
    return [
        VisionReply(request.uri, request.enrichment.name, failure, model.system, model.ref.id)
        if skip
        else next(replies)
        for request, skip in zip(requests, skipped, strict=True)
    ]


def _looks_down(replies: Sequence[VisionReply]) -> bool:
    """Whether everything failed as it does when an endpoint is dead: then the rest is not tried one by one."""
    failures = [reply.failure for reply in replies]
    return len(failures) > 1 and all(failure and failure.cause in _OF_THE_SYSTEM for failure in failures)


def _run(loaded: LoadedModel, requests: Sequence[VisionRequest]) -> list[VisionReply]:
    """Run the model and hold it to its contract: one reply a request, in order, each to its own question."""
    replies = loaded.model.run(requests) if requests else []
    replied = [(reply.uri, reply.enrichment) for reply in replies]
    if replied != [(request.uri, request.enrichment.name) for request in requests]:
        raise RuntimeError(f"{loaded.model.system} broke its contract: its replies do not match the requests")
    return [replace(reply, model_revision=loaded.revision) for reply in replies]


def _with_fallback(answers: list[Answer], requests: Sequence[VisionRequest], spec: EnrichmentSpec) -> list[Answer]:
    """Ask the next system in the ranking what the one before could not answer; the reply keeps the route."""
    while True:
        failures = failures_of(answers)
        indices_by_system: dict[str, list[int]] = {}
        for index, (answer, failure) in enumerate(zip(answers, failures, strict=True)):
            tried = (*answer.reply.route, answer.reply.system)
            untried = [system for system in answer.resolved.systems if system not in tried]
            if failure and failure.cause in _WORTH_ANOTHER_SYSTEM and untried:
                indices_by_system.setdefault(untried[0], []).append(index)
        if not indices_by_system:
            return answers
        for system, indices in indices_by_system.items():
            loaded = load_model(system, spec.models.get(system))
            with loaded.slots:
                replies = _run(loaded, [requests[index] for index in indices])
            for index, reply in zip(indices, replies, strict=True):
                previous = answers[index].reply
                route = (*previous.route, previous.system)
                usage = previous.usage + reply.usage
                answers[index] = replace(answers[index], reply=replace(reply, route=route, usage=usage))
