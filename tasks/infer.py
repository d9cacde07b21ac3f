"""infer: ask the model about a shard, batch by batch, and gather one answer for all that was asked."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from prefect import task
from prefect.cache_policies import NO_CACHE

from sightflow.blocks.models.contract import Incomplete
from sightflow.blocks.models.metering import OverBudget
from sightflow.blocks.models.outside_systems import blamed_on
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import BudgetMet, Cause, Failure, ModelError, Stage
from sightflow.schemas.policy import Policy
from sightflow.schemas.run.plan import Shard
from sightflow.schemas.run.timing import Span, StartStep, timed
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.vision import Answer, Replies, VisionReply, VisionRequest
from sightflow.tasks.fetch import Fetched
from sightflow.tasks.media.reply_assembler import ReplyAssembler
from sightflow.tasks.media.request_batches import InferenceItem, image_batches
from sightflow.tasks.memory.limit import memory_budget
from sightflow.tasks.memory.pixel_budget import PixelBudget
from sightflow.tasks.runtime.cancellation import ShardSkipped, is_asked_to_stop, is_halted
from sightflow.tasks.runtime.loaded_models import LoadedModel, load_model
from sightflow.tasks.runtime.spending import metered
from sightflow.tasks.validate import failures_of

_logger = logging.getLogger(__name__)

_WORTH_ANOTHER_SYSTEM = frozenset(
    {Cause.MALFORMED, Cause.MODEL, Cause.RATE_LIMITED, Cause.REFUSED, Cause.SCHEMA, Cause.TRUNCATED}
)
_OF_THE_SYSTEM = frozenset({Cause.MODEL, Cause.RATE_LIMITED})


@task(task_run_name="infer-{shard.index}-{shard.system}", cache_policy=NO_CACHE, persist_result=False)
def infer(shard: Shard, fetched: Fetched, spec: EnrichmentSpec, run_id: str = "", asks_anew: bool = False) -> Replies:
    """Decode and answer a shard: one answer for every enrichment of every item, results and failures alike.

    An item's failure is an answer; raises ModelError only for what concerns every item. Not retried as a whole:
    what can pass by itself (a busy provider, a full device) is retried inside the model, item by item.
    Raises ShardSkipped, with nothing asked, if the run has been asked to stop.

    What it costs counts against the budget of the run; BudgetMet ends the shard. `asks_anew`: see `metered`.

    What is raised after the first answer is returned beside the answers instead: they may have been paid for.
    """
    spans = list(fetched.spans)
    with timed(spans, StartStep.MODEL):
        loaded = load_model(*spec.model_entry(shard.system))
    assembler = ReplyAssembler(shard, fetched)
    try:
        with metered(spec, run_id, asks_anew):
            _answer(shard, fetched, spec, loaded, spans, assembler)
    except Exception as error:  # whatever it is, what was answered before is published
        answers = assembler.answers()
        if not answers:
            raise
        return Replies(answers, spans, error)
    return Replies(assembler.answers(), spans)


def _answer(
    shard: Shard,
    fetched: Fetched,
    spec: EnrichmentSpec,
    loaded: LoadedModel,
    spans: list[Span],
    assembler: ReplyAssembler,
) -> None:
    """Give the assembler every answer. Raises what ends the shard, when it has been given those before."""
    begun = is_down = False
    for batch in _batches(shard, fetched, spec.policy, loaded.model, spans):
        failed = [(item, _failed_answer(item, loaded.model)) for item in batch if item.request is None]
        items = [item for item in batch if item.request is not None]
        requests = [item.request for item in items if item.request]
        with loaded.slots:
            if is_asked_to_stop() and not begun:
                raise ShardSkipped(f"shard {shard.index} was not begun: the run has been asked to stop")
            if is_halted():
                raise ShardSkipped(f"shard {shard.index} was not asked any further: the run has ended")
            begun = True
            with timed(spans, Stage.INFER):
                skipped = [is_down and len(item.resolved.systems) > 1 for item in items]
                replies, error = _run_unless_skipped(loaded, requests, skipped)
        answers = {
            index: Answer(item.shard_item, item.resolved, item.facts, reply)
            for index, (item, reply) in enumerate(zip(items, replies, strict=True))
            if reply is not None
        }
        if spec.policy.fallback:
            if not is_down and _looks_down(replies):
                is_down = True
                _logger.warning("shard %d: %s looks down; the next system is asked", shard.index, shard.system)
            with timed(spans, Stage.INFER):
                error = _fall_back(answers, requests, spec, error)
        assembler.add([*failed, *((items[index], answer) for index, answer in answers.items())])
        if error is not None:
            raise error


def _batches(
    shard: Shard, fetched: Fetched, policy: Policy, model: VisionModel, spans: list[Span]
) -> Iterator[list[InferenceItem]]:
    budget = PixelBudget(memory_budget(policy).pixels)
    if shard.media_kind is MediaKind.VIDEO:
        from sightflow.tasks.media.video_batches import video_batches  # with FFmpeg, which images do not need

        return video_batches(shard, fetched, policy.limits, model, spans, budget)
    return image_batches(shard, fetched, policy.limits, model, spans, budget)


def _failed_answer(item: InferenceItem, model: VisionModel) -> Answer:
    """The answer to what could not be made a request."""
    assert item.failure is not None
    uri, enrichment = item.shard_item.uri, item.resolved.enrichment
    reply = VisionReply(uri, enrichment.name, item.failure, model.name_in_spec, model.ref.id)
    return Answer(item.shard_item, item.resolved, None, reply)


def _run_unless_skipped(
    loaded: LoadedModel, requests: Sequence[VisionRequest], skipped: Sequence[bool]
) -> tuple[list[VisionReply | None], Exception | None]:
    """As `_run`; requests that are skipped are not sent, and fail as what was sent before them did."""
    sent = [request for request, skip in zip(requests, skipped, strict=True) if not skip]
    given, error = _run(loaded, sent)
    replies = iter(given)
    model = loaded.model
    failure = Failure(Cause.MODEL, f"not asked: {model.name_in_spec} failed for all that was asked before", attempts=0)
    return [
        VisionReply(request.uri, request.enrichment.name, failure, model.name_in_spec, model.ref.id)
        if skip
        else next(replies)
        for request, skip in zip(requests, skipped, strict=True)
    ], error


def _looks_down(replies: Sequence[VisionReply | None]) -> bool:
    """Whether everything failed as it does when an endpoint is dead: then the rest is not tried one by one."""
    failures = [reply and reply.failure for reply in replies]
    return len(failures) > 1 and all(failure and failure.cause in _OF_THE_SYSTEM for failure in failures)


def _run(loaded: LoadedModel, requests: Sequence[VisionRequest]) -> tuple[list[VisionReply | None], Exception | None]:
    """Run the model and hold it to its contract: one reply a request, in order, each to its own question.

    With the replies what ended the model before it had answered all; None stands for a reply that there is not.
    """
    replies: list[VisionReply | None] = []
    error: Exception | None = None
    try:
        with blamed_on(loaded.model.name_in_spec, type(loaded.model), ModelError):
            replies += loaded.model.run(requests) if requests else []
    except Incomplete as stopped:
        kind = BudgetMet if isinstance(stopped, OverBudget) else ModelError
        replies, error = stopped.done, kind(str(stopped))
    except Exception as raised:  # whatever it is, it is raised when what was answered before has been kept
        replies, error = [None] * len(requests), raised
    due = [(request.uri, request.enrichment.name) for request in requests]
    if len(replies) != len(due) or any(
        reply and (reply.uri, reply.enrichment) != asked for reply, asked in zip(replies, due, strict=True)
    ):
        raise RuntimeError(f"{loaded.model.system} broke its contract: its replies do not match the requests")
    return [reply and replace(reply, model_revision=loaded.revision) for reply in replies], error


def _fall_back(
    answers: dict[int, Answer], requests: Sequence[VisionRequest], spec: EnrichmentSpec, error: Exception | None
) -> Exception | None:
    """Ask the next system in the ranking what the one before could not answer; the reply keeps the route.

    `answers`, by the index of their requests, are replaced in place. An error, given or met, ends it and is returned:
    what another system was still to be asked is taken out, for the next run to ask.
    """
    while waiting := _worth_another_system(answers):
        if error is not None:
            for index in waiting:
                del answers[index]
            break
        system = next(iter(waiting.values()))
        indices = [index for index, wanted in waiting.items() if wanted == system]
        try:
            loaded = load_model(*spec.model_entry(system))
        except Exception as raised:  # whatever it is, it is raised when what was answered before has been kept
            error = raised
            continue
        with loaded.slots:
            replies, error = _run(loaded, [requests[index] for index in indices])
        for index, reply in zip(indices, replies, strict=True):
            previous = answers[index].reply
            if reply is not None:
                route, usage = (*previous.route, previous.system), previous.usage + reply.usage
                answers[index] = replace(answers[index], reply=replace(reply, route=route, usage=usage))
    return error


def _worth_another_system(answers: dict[int, Answer]) -> dict[int, str]:
    """The indices of answers that another system may do better, each with the one that is next."""
    waiting = {}
    for (index, answer), failure in zip(answers.items(), failures_of(list(answers.values())), strict=True):
        tried = (*answer.reply.route, answer.reply.system)
        untried = [system for system in answer.resolved.systems if system not in tried]
        if failure and failure.cause in _WORTH_ANOTHER_SYSTEM and untried:
            waiting[index] = untried[0]
    return waiting
