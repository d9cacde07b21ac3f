"""The tokens of a sample of what is left to do, counted by the vendors themselves, which charge nothing for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import polars as pl

from sightflow.blocks.models.contract import GenerationRequest, Prompt
from sightflow.blocks.models.engines.providers.vendor import VendorEngine
from sightflow.blocks.models.registry import open_model
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import ModelError
from sightflow.schemas.money.estimate import Estimate
from sightflow.schemas.money.rates import FREE
from sightflow.schemas.run.plan import EnrichmentPlan, ResolvedEnrichment, RunPlan, Shard, ShardItem
from sightflow.schemas.run.timing import Span
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.vision import Usage, VisionRequest
from sightflow.tasks.fetch import fetch
from sightflow.tasks.media.request_batches import image_batches
from sightflow.tasks.media.video_batches import video_batches
from sightflow.tasks.memory.limit import memory_budget
from sightflow.tasks.memory.pixel_budget import PixelBudget
from sightflow.tasks.money.media_sizes import sample

SAMPLE = 10
"""Objects whose requests are counted, of each enrichment."""


def counted_by_vendors(run_plan: RunPlan, spec: EnrichmentSpec) -> RunPlan:
    """The plan with the input tokens of each hosted enrichment counted by its vendor, over a sample of its objects,
    which is fetched and sent as a run would send it. Where a vendor does not count, its estimate says so.
    """
    plans = [_counted(plan, run_plan, spec) for plan in run_plan.plans]
    return replace(run_plan, plans=tuple(plans))


def _counted(plan: EnrichmentPlan, run_plan: RunPlan, spec: EnrichmentSpec) -> EnrichmentPlan:
    first = plan.route.candidates[0]
    if not plan.to_compute or not first.hosted:
        return plan
    model = open_model(*spec.model_entry(first.system))
    engine = model.open_engine()
    if not isinstance(engine, VendorEngine):
        return _told(plan, f"not counted: {first.system} is not asked by its vendor's own SDK")
    if engine.counting_problem:
        return _told(plan, f"not counted: {engine.counting_problem}")
    (resolved,) = (
        each
        for each in run_plan.resolved_enrichments
        if each.enrichment.name == plan.enrichment and each.media_kind is plan.media_kind
    )
    try:
        counts = [
            sum(engine.count_input_tokens(GenerationRequest(asked, prompt)) for asked in about for prompt in prompts)
            for about, prompts in _asked(model, resolved, _sampled(plan, run_plan), spec)
        ]
    except ModelError as error:
        return _told(plan, f"not counted: {error}")
    if not counts:
        return _told(plan, "not counted: none of the sample could be read")
    return _priced(plan, model, resolved, sum(counts) / len(counts), len(counts))


def _sampled(plan: EnrichmentPlan, run_plan: RunPlan) -> pl.DataFrame:
    asked = pl.col("enrichments").list.contains(plan.enrichment) & (pl.col("media_kind") == str(plan.media_kind))
    return sample(run_plan.frame.filter(asked), SAMPLE)


def _asked(
    model: VisionModel, resolved: ResolvedEnrichment, objects: pl.DataFrame, spec: EnrichmentSpec
) -> Iterator[tuple[list[VisionRequest], tuple[Prompt, ...]]]:
    """Of each object that can be read the requests about it, one a window of a video, and the prompts of each."""
    name, kind = resolved.enrichment.name, resolved.media_kind
    listed = objects.select("uri", "object_version", "bytes").iter_rows()
    items = tuple(ShardItem(uri, version, size, (name,)) for uri, version, size in listed)
    shard = Shard(0, resolved.systems[0], kind, items, (resolved,))
    fetched = fetch.without_prefect(shard, spec)
    batches, spans = video_batches if kind is MediaKind.VIDEO else image_batches, list[Span]()
    budget = PixelBudget(memory_budget(spec.policy).pixels)
    prompts = model.effective_prompts(resolved.enrichment, kind)
    about: dict[str, list[VisionRequest]] = {}
    for batch in batches(shard, fetched, spec.policy.limits, model, spans, budget):
        for item in batch:
            if item.request is None:
                continue
            about.setdefault(item.shard_item.uri, []).append(item.request)
            if len(about[item.shard_item.uri]) >= max(1, len(item.windows)):
                yield about.pop(item.shard_item.uri), prompts


def _priced(
    plan: EnrichmentPlan, model: VisionModel, resolved: ResolvedEnrichment, mean: float, count: int
) -> EnrichmentPlan:
    """At today's price: tokens in as they were counted, tokens out as they were expected."""
    items, before = plan.to_compute, plan.estimate
    out = (before.output_tokens or 0) / items
    requests = len(model.effective_prompts(resolved.enrichment, resolved.media_kind))
    one = Usage(round(mean / requests), round(out / requests))
    price = items * requests * (model.rates or FREE).cost(one) * plan.delivery.price_share
    known_by = f"tokens in counted by the vendor over {count} objects; tokens out by {before.known_by}"
    estimate = before.model_copy(update={"input_tokens": round(items * mean), "price": price, "known_by": known_by})
    return _with(plan, estimate)


def _told(plan: EnrichmentPlan, why: str) -> EnrichmentPlan:
    known_by = "; ".join(filter(None, (plan.estimate.known_by, why)))
    return _with(plan, plan.estimate.model_copy(update={"known_by": known_by}))


def _with(plan: EnrichmentPlan, estimate: Estimate) -> EnrichmentPlan:
    return plan.model_copy(update={"estimate": estimate, "price": estimate.price})
