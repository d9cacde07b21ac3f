"""repair: show a model the reply that cannot be read, and ask once more, directly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sightflow.blocks.models.contract import BilledFailure, Generated, GenerationRequest, Incomplete, Output
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Cause, Failure, ModelError
from sightflow.schemas.run.batch import BatchedRequest
from sightflow.schemas.run.plan import ResolvedEnrichment, Shard, ShardItem
from sightflow.schemas.run.timing import Span
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.batches.request_file import custom_id
from sightflow.tasks.batches.submit import media_batches
from sightflow.tasks.fetch import fetch
from sightflow.tasks.runtime.loaded_models import LoadedModel
from sightflow.tasks.runtime.spending import metered


def repaired(
    unreadable: Sequence[tuple[BatchedRequest, Generated]],
    resolved: Mapping[str, ResolvedEnrichment],
    loaded: LoadedModel,
    spec: EnrichmentSpec,
    run_id: str,
) -> tuple[dict[str, Output], str]:
    """What came of asking again, by the ids of the requests, with what both replies cost; nothing of a request that
    could not be asked: its object has changed, the vendor takes no more, or the budget of the run does not allow it.
    And why so, in words, where that was not about one object.

    The objects are fetched anew, at the version that was asked about.
    """
    if not unreadable:
        return {}, ""
    waiting = {request.custom_id: (request, reply) for request, reply in unreadable}
    outputs: dict[str, Output] = {}
    spans: list[Span] = []
    shard = _shard([request for request, _ in unreadable], resolved, loaded)
    try:
        fetched = fetch.fn(shard, spec)
        for batch in media_batches(shard, fetched, spec, loaded.model, spans):
            asked = {custom_id(item): item.request for item in batch if item.request and custom_id(item) in waiting}
            requests = []
            for each, request in asked.items():
                (prompt,) = loaded.model.effective_prompts(request.enrichment, request.media.kind)
                requests.append(GenerationRequest(request, prompt, waiting[each][1].text))
            try:
                with metered(spec, run_id, asks_anew=False):
                    made: Sequence[Output | None] = loaded.model.open_engine().generate(requests) if requests else []
                stopped = None
            except Incomplete as error:
                made, stopped = error.done, error
            for each, output in zip(asked, made, strict=True):
                if output is not None:
                    outputs[each] = _after(waiting[each][1], output)
            if stopped is not None:
                raise stopped
    except ModelError as error:
        return outputs, f"{len(waiting) - len(outputs):,} unreadable replies are not asked again: {error}"
    return outputs, ""


def _after(first: Generated, second: Output) -> Output:
    """The second reply with what the first cost."""
    if not isinstance(second, Generated | BilledFailure):
        second = BilledFailure(second.cause, second.message, second.stage, second.attempts, second.raw_reply)
    return replace(
        second,
        usage=first.usage + second.usage,
        transcript=(first.text, *second.transcript),
        attempts=first.attempts + second.attempts,
        served_id=second.served_id or first.served_id,
    )


def _shard(
    requests: Sequence[BatchedRequest], resolved: Mapping[str, ResolvedEnrichment], loaded: LoadedModel
) -> Shard:
    """The objects of some requests as a shard of their own."""
    by_uri: dict[str, list[BatchedRequest]] = {}
    for request in requests:
        by_uri.setdefault(request.uri, []).append(request)
    items = tuple(
        ShardItem(uri, own[0].object_version, own[0].bytes, tuple(dict.fromkeys(each.enrichment for each in own)))
        for uri, own in by_uri.items()
    )
    kind = MediaKind(requests[0].media_kind)
    return Shard(0, loaded.model.name_in_spec, kind, items, tuple(resolved.values()))


def is_unreadable(output: Output, failure: Failure | None) -> bool:
    """Whether a reply was given whole, and is not in the form that was asked for."""
    whole = isinstance(output, Generated) and not output.truncated
    return whole and failure is not None and failure.cause is Cause.MALFORMED
