"""infer: ask the model about a shard, batch by batch, and gather one answer for all that was asked."""

from __future__ import annotations

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

_WORTH_ANOTHER_SYSTEM = frozenset(
    {Cause.MALFORMED, Cause.MODEL, Cause.RATE_LIMITED, Cause.REFUSED, Cause.SCHEMA, Cause.TRUNCATED}
)
_OF_THE_SYSTEM = frozenset({Cause.MODEL, Cause.RATE_LIMITED})


@task(task_run_name="infer-{shard.index}-{shard.system}", cache_policy=NO_CACHE, persist_result=False)
def infer(shard: Shard, fetched: Fetched, spec: EnrichmentSpec) -> Replies:
    """Decode and answer a shard: one answer for every enrichment of every item, results and failures alike.

    An item's failure is an answer; raises ModelError only for what concerns every item. Not retried as a whole:
    what can pass by itself (a busy provider, a full device) is retried inside the model, item by item.
    Raises ShardGivenBack, with nothing asked, if the run has been asked to stop.
    """
    serving = load_model(shard.system, spec.models.get(shard.system))
    spans = list(fetched.spans)
    gathering = ReplyAssembler(shard, fetched)
    down = begun = False
    for batch in _batches(shard, fetched, spec.policy.limits, serving.model, spans):
        unread = [(asked, _unasked(asked, serving)) for asked in batch if asked.request is None]
        put = [asked for asked in batch if asked.request is not None]
        requests = [asked.request for asked in put if asked.request]
        with serving.turn:
            if is_asked_to_stop() and not begun:
                raise ShardSkipped(f"shard {shard.index} was not begun: the run has been asked to stop")
            begun = True
            with timed(spans, Stage.INFER):
                replies = _answered(serving, requests, [len(asked.resolved.systems) > 1 and down for asked in put])
        answers = [Answer(a.item, a.resolved, a.facts, reply) for a, reply in zip(put, replies, strict=True)]
        if spec.policy.fallback:
            down = down or _is_down(replies)
            answers = _with_fallback(answers, requests, spec)
        gathering.add([*unread, *zip(put, answers, strict=True)])
    return Replies(gathering.answers(), spans)


def _batches(
    shard: Shard, fetched: Fetched, limits: Limits, model: VisionModel, spans: list[Span]
) -> Iterator[list[InferenceItem]]:
    if shard.media_kind is MediaKind.VIDEO:
        return video_batches(shard, fetched, limits, model, spans)
    return image_batches(shard, fetched, limits, model, spans)


def _unasked(asked: InferenceItem, serving: LoadedModel) -> Answer:
    model, item, resolved = serving.model, asked.item, asked.resolved
    assert asked.failure is not None
    reply = VisionReply(
        item.uri, resolved.enrichment.name, asked.failure, model.system, model.ref.id, model_revision=serving.revision
    )
    return Answer(item, resolved, None, reply)


def _answered(
    serving: LoadedModel, requests: Sequence[VisionRequest], passed_over: Sequence[bool]
) -> list[VisionReply]:
    """The replies to requests; those passed over are not asked, and fail as what was asked before them did."""
    asked = [request for request, over in zip(requests, passed_over, strict=True) if not over]
    replies = iter(_asked(serving, asked))
    model = serving.model
    failure = Failure(Cause.MODEL, f"not asked: {model.system} failed for all that was asked before", attempts=0)
    return [
        VisionReply(request.uri, request.enrichment.name, failure, model.system, model.ref.id)
        if over
        else next(replies)
        for request, over in zip(requests, passed_over, strict=True)
    ]


def _is_down(replies: Sequence[VisionReply]) -> bool:
    """Whether everything failed as it does when an endpoint is dead: then the rest is not tried one by one."""
    failures = [reply.failure for reply in replies]
    return len(failures) > 1 and all(failure and failure.cause in _OF_THE_SYSTEM for failure in failures)


def _asked(serving: LoadedModel, requests: Sequence[VisionRequest]) -> list[VisionReply]:
    """Run the model and hold it to its contract: one reply a request, in order, each to its own question."""
    replies = serving.model.run(requests) if requests else []
    answered = [(reply.uri, reply.enrichment) for reply in replies]
    if answered != [(request.uri, request.enrichment.name) for request in requests]:
        raise RuntimeError(f"{serving.model.system} broke its contract: its replies do not match the requests")
    return [replace(reply, model_revision=serving.revision) for reply in replies]


def _with_fallback(answers: list[Answer], requests: Sequence[VisionRequest], spec: EnrichmentSpec) -> list[Answer]:
    """Ask the next system in the ranking what the one before could not answer; the reply keeps the route."""
    while True:
        failures = failures_of(answers)
        again: dict[str, list[int]] = {}
        for place, (answer, failure) in enumerate(zip(answers, failures, strict=True)):
            tried = (*answer.reply.route, answer.reply.system)
            left = [system for system in answer.resolved.systems if system not in tried]
            if failure and failure.cause in _WORTH_ANOTHER_SYSTEM and left:
                again.setdefault(left[0], []).append(place)
        if not again:
            return answers
        for system, places in again.items():
            serving = load_model(system, spec.models.get(system))
            with serving.turn:
                replies = _asked(serving, [requests[place] for place in places])
            for place, reply in zip(places, replies, strict=True):
                before = answers[place].reply
                route = (*before.route, before.system)
                usage = before.usage + reply.usage
                answers[place] = replace(answers[place], reply=replace(reply, route=route, usage=usage))
