"""infer: ask the model about a shard, batch by batch, and gather one answer for all that was asked."""

from __future__ import annotations

import atexit
import gc
import json
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from sightflow.blocks.models.registry import open_model
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Cause, Failure, Stage
from sightflow.schemas.run.plan import Shard
from sightflow.schemas.run.timing import Span, timed
from sightflow.schemas.spec import EnrichmentSpec, Limits
from sightflow.schemas.vision import Answer, Replies, VisionReply, VisionRequest
from sightflow.tasks.fetch import Fetched
from sightflow.tasks.media.request_batches import InferenceItem, image_batches, video_batches
from sightflow.tasks.media.windows import join
from sightflow.tasks.runtime.cancellation import ShardSkipped, is_asked_to_stop
from sightflow.tasks.validate import failures_of

_WORTH_ANOTHER_SYSTEM = frozenset(
    {Cause.MALFORMED, Cause.MODEL, Cause.RATE_LIMITED, Cause.REFUSED, Cause.SCHEMA, Cause.TRUNCATED}
)
_OF_THE_SYSTEM = frozenset({Cause.MODEL, Cause.RATE_LIMITED})


@dataclass(frozen=True)
class Loaded:
    """A model in memory, what to hold while it runs (a local model takes few calls at once), and which weights these
    are: the pinned revision, or a digest of the folder.
    """

    model: VisionModel
    turn: AbstractContextManager[Any]
    revision: str


@task(task_run_name="infer-{shard.index}-{shard.system}", cache_policy=NO_CACHE, persist_result=False)
def infer(shard: Shard, fetched: Fetched, spec: EnrichmentSpec) -> Replies:
    """Decode and answer a shard: one answer for every enrichment of every item, results and failures alike.

    An item's failure is an answer; raises ModelError only for what concerns every item. Not retried as a whole:
    what can pass by itself (a busy provider, a full device) is retried inside the model, item by item.
    Raises ShardGivenBack, with nothing asked, if the run has been asked to stop.
    """
    serving = loaded(shard.system, spec.models.get(shard.system))
    spans = list(fetched.spans)
    gathering = _Gathering(shard, fetched)
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


class _Gathering:
    """Gathers the answers of a shard: those about the windows of a video become one; then its file may go."""

    def __init__(self, shard: Shard, fetched: Fetched) -> None:
        self._fetched = fetched
        self._parts: dict[tuple[str, str], dict[int, Answer]] = {}
        self._done: dict[tuple[str, str], Answer] = {}
        self._left = {item.uri: len(item.enrichments) for item in shard.items}
        self._order = [(item.uri, name) for item in shard.items for name in item.enrichments]

    def add(self, answered: Iterable[tuple[InferenceItem, Answer]]) -> None:
        for asked, answer in answered:
            key = (asked.item.uri, asked.resolved.enrichment.name)
            parts = self._parts.setdefault(key, {})
            parts[asked.place] = answer
            if len(parts) < max(len(asked.windows), 1):
                continue
            ordered = [parts[place] for place in sorted(self._parts.pop(key))]
            whole = join(asked.resolved.enrichment, asked.windows, [part.reply for part in ordered])
            facts = next((part.facts for part in ordered if part.facts), None)
            self._done[key] = replace(ordered[0], reply=whole, facts=facts)
            self._left[asked.item.uri] -= 1
            if not self._left[asked.item.uri]:
                self._fetched.release(asked.item.uri)

    def answers(self) -> list[Answer]:
        """One for each enrichment of each item, in the order of the shard."""
        return [self._done[key] for key in self._order]


def _unasked(asked: InferenceItem, serving: Loaded) -> Answer:
    model, item, resolved = serving.model, asked.item, asked.resolved
    assert asked.failure is not None
    reply = VisionReply(
        item.uri, resolved.enrichment.name, asked.failure, model.system, model.ref.id, model_revision=serving.revision
    )
    return Answer(item, resolved, None, reply)


def _answered(serving: Loaded, requests: Sequence[VisionRequest], passed_over: Sequence[bool]) -> list[VisionReply]:
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


def _asked(serving: Loaded, requests: Sequence[VisionRequest]) -> list[VisionReply]:
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
            serving = loaded(system, spec.models.get(system))
            with serving.turn:
                replies = _asked(serving, [requests[place] for place in places])
            for place, reply in zip(places, replies, strict=True):
                before = answers[place].reply
                route = (*before.route, before.system)
                usage = before.usage + reply.usage
                answers[place] = replace(answers[place], reply=replace(reply, route=route, usage=usage))


_LOADED: dict[tuple[str, str, str], Loaded] = {}
_LOADING = threading.Lock()
_INTERPRETER_SECONDS = 0.001
"""How long a thread may keep Python's lock that another waits for. A model gives it up at every operation of torch and
needs it back at once; threads that fetch would keep it for 5 ms each time."""


def loaded(system: str, settings: dict[str, Any] | None) -> Loaded:
    """The model, loaded once a process; weights that changed on disk since are loaded anew.

    Raises ModelError if the model cannot be used at all.
    """
    model = open_model(system, settings)
    digest = model.weights_digest()
    key = (system, json.dumps(settings or {}, sort_keys=True, default=str), digest)
    with _LOADING:
        if key not in _LOADED:
            model.prepare()
            sys.setswitchinterval(min(sys.getswitchinterval(), _INTERPRETER_SECONDS))
            turn = threading.Semaphore(model.runs_at_once) if model.runs_at_once else nullcontext()
            _LOADED[key] = Loaded(model, turn, digest.rpartition("@")[2])
            _settle()
        return _LOADED[key]


def _settle() -> None:
    """Let Python's collector pass over all that there is now: what has been loaded stays.

    Each full collection would go through all the libraries and models: 0.2 s in which no thread runs.
    """
    # At the end all of it is collected: some libraries would tell what is left on the screen.
    atexit.unregister(gc.unfreeze)
    atexit.register(gc.unfreeze)
    gc.unfreeze()  # so that what was passed over at the last model and has been left since is collected once
    gc.collect()
    gc.freeze()
