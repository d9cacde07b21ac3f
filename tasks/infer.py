"""infer: ask the model about a shard; decoding runs ahead of it, group by group."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from blocks.systems import open_model
from blocks.vision_model import VisionModel
from schemas.failure import Cause, Failure
from schemas.media import Media, MediaFacts
from schemas.plan import Ask, Shard, ShardItem
from schemas.spec import EnrichmentSpec, Limits
from schemas.vision import Answer, Replies, VisionReply, VisionRequest
from tasks.decode import decode
from tasks.fetch import Fetched
from tasks.validate import failures_of

_WORTH_ANOTHER_SYSTEM = frozenset({Cause.MALFORMED, Cause.REFUSED, Cause.TRUNCATED, Cause.SCHEMA, Cause.MODEL})
_DECODERS = max(2, min(8, os.cpu_count() or 2))


@dataclass(frozen=True)
class Loaded:
    """A model in memory, the lock to hold while it runs (a local model runs one batch at a time), and which
    weights these are: the pinned revision, or a digest of the folder.
    """

    model: VisionModel
    turn: AbstractContextManager[Any]
    revision: str


@task(task_run_name="infer-{shard.index}-{shard.system}", cache_policy=NO_CACHE, persist_result=False)
def infer(shard: Shard, fetched: Fetched, spec: EnrichmentSpec) -> Replies:
    """Decode and answer a shard: one answer for every enrichment of every item, results and failures alike.

    An item's failure is an answer; raises ModelError only for what concerns every item. Not retried as a whole:
    what can pass by itself (a busy provider, a full device) is retried inside the model, item by item.
    """
    serving = loaded(shard.system, spec.models.get(shard.system))
    seconds = {"fetch": fetched.seconds, "decode": 0.0, "infer": 0.0}
    answers: list[Answer] = []
    for items, decoded in decode_ahead(
        shard.items, fetched, spec.policy.limits, serving.model.objects_at_once, seconds
    ):
        requests: list[tuple[ShardItem, Ask, VisionRequest]] = []
        for item, media in zip(items, decoded, strict=True):
            asks = [shard.ask(name) for name in item.enrichments]
            if isinstance(media, Failure):
                answers += [_unasked(item, ask, media, serving) for ask in asks]
            else:
                requests += [(item, ask, VisionRequest(item.uri, ask.enrichment, media)) for ask in asks]
        with serving.turn:
            began = time.perf_counter()
            replies = _asked(serving, [request for _, _, request in requests])
            seconds["infer"] += time.perf_counter() - began
        group = [
            Answer(item, ask, MediaFacts.of(request.media), reply)
            for (item, ask, request), reply in zip(requests, replies, strict=True)
        ]
        if spec.policy.fallback:
            group = _with_fallback(group, [request for _, _, request in requests], spec)
        answers += group
    return Replies(answers, seconds)


def _unasked(item: ShardItem, ask: Ask, failure: Failure, serving: Loaded) -> Answer:
    model = serving.model
    reply = VisionReply(
        item.uri, ask.enrichment.name, failure, model.system, model.ref.id, model_revision=serving.revision
    )
    return Answer(item, ask, None, reply)


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
            left = [system for system in answer.ask.systems if system not in tried]
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


def decode_ahead(
    items: Sequence[ShardItem], fetched: Fetched, limits: Limits, group: int, seconds: dict[str, float]
) -> Iterator[tuple[Sequence[ShardItem], list[Media | Failure]]]:
    """Yield items in groups with their media, decoding the next group in threads while this one is used.

    At most two groups are in memory as pixels; an object's bytes are let go when it has been decoded.
    """

    def decoded(item: ShardItem) -> Media | Failure:
        content = fetched.contents.pop(item.uri)
        return content if isinstance(content, Failure) else decode(content, limits)

    groups = [items[k : k + group] for k in range(0, len(items), group)]
    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode") as pool:
        pending = [pool.submit(decoded, item) for item in groups[0]] if groups else []
        for place, members in enumerate(groups):
            began = time.perf_counter()
            media = [future.result() for future in pending]
            seconds["decode"] += time.perf_counter() - began
            following = groups[place + 1] if place + 1 < len(groups) else ()
            pending = [pool.submit(decoded, item) for item in following]
            yield members, media


_LOADED: dict[tuple[str, str, str], Loaded] = {}
_LOADING = threading.Lock()


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
            turn = nullcontext() if model.hosted else threading.Lock()
            _LOADED[key] = Loaded(model, turn, digest.rpartition("@")[2])
        return _LOADED[key]
