"""What is left to do will take so many tokens, so much money and time: by what was measured, or else by rules."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.models.hosted_model import HostedModel
from sightflow.blocks.models.outside_systems import blamed_on
from sightflow.blocks.models.prices.expenses import TYPICAL_SECONDS, TYPICAL_SIZE
from sightflow.blocks.models.registry import open_model
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.money.estimate import Estimate, MeasuredRates
from sightflow.schemas.money.rates import FREE
from sightflow.schemas.run.plan import Candidate, ResolvedEnrichment, Route
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.vision import Usage
from sightflow.tasks.money.measured import EarlierRuns
from sightflow.tasks.open import open_store

if TYPE_CHECKING:
    from sightflow.tasks.media.media_shape import MediaShape
    from sightflow.tasks.money.media_sizes import MediaSizes


class Estimator:
    """Estimates the enrichments of a plan. `objects`: `object_index, uri, object_version, bytes` of what is listed."""

    def __init__(self, spec: EnrichmentSpec, catalog: Catalog, objects: pl.DataFrame) -> None:
        self._spec, self._catalog, self._objects = spec, catalog, objects

    @cached_property
    def _earlier(self) -> EarlierRuns:
        return EarlierRuns.of(self._catalog)

    @cached_property
    def _sizes(self) -> MediaSizes:
        from sightflow.tasks.money.media_sizes import MediaSizes  # which opens images and videos

        return MediaSizes(self._catalog, open_store(self._spec.store))

    def of(self, resolved: ResolvedEnrichment, route: Route, pending: pl.DataFrame, together: int = 1) -> Estimate:
        """What is expected of an enrichment of these objects (`object_index`), asked directly.

        `together`: how many enrichments are asked directly of the same model and kind of media, itself among them.
        """
        first, items = route.candidates[0], pending.height
        if not items:
            return Estimate()
        model = open_model(*self._spec.model_entry(first.system))
        asked = (resolved.enrichment.name, resolved.media_kind, first.system, first.model_id, resolved.recipe)
        measured = self._earlier.rates(*asked)
        if not first.hosted and not first.price_per_item:
            return self._computed_here(items, measured)
        objects = self._objects.join(pending, on="object_index", how="semi")
        if measured and measured.is_of_such_media(_mean_bytes(objects)):
            return _charged(model, items, measured)
        with blamed_on(first.system, type(model)):
            return self._by_rules(model, first, resolved, objects, measured, together)

    def _computed_here(self, items: int, measured: MeasuredRates | None) -> Estimate:
        """Of a model on this machine: time, where it was measured, and tokens; money, if an hour of it has a price."""
        if measured is None:
            return Estimate(items=items, known_by="no charge; the first run shows how long it takes")
        hour = self._spec.policy.gpu_hour_usd
        price = items * measured.busy_seconds / 3600 * hour if hour else 0.0
        at = f", at ${hour:g} for an hour of a model at work" if hour else ""
        return Estimate(
            items=items,
            input_tokens=round(items * measured.input_tokens),
            output_tokens=round(items * measured.output_tokens),
            price=price,
            seconds=None if measured.seconds is None else items * measured.seconds,
            known_by=f"{_measured(measured)}{at}",
        )

    def _by_rules(
        self,
        model: VisionModel,
        candidate: Candidate,
        resolved: ResolvedEnrichment,
        objects: pl.DataFrame,
        measured: MeasuredRates | None,
        together: int,
    ) -> Estimate:
        """By the vendor's rules for media of these sizes; a reply is as long as it was before, or as is usual."""
        enrichment, kind, items = resolved.enrichment, resolved.media_kind, objects.height
        if not model.request_usages(enrichment, kind, TYPICAL_SIZE):  # a system of the user's own, which names a price
            return Estimate(items=items, price=items * candidate.price_per_item, known_by="a price for each item")
        sizes = self._sizes.of(objects.select("uri", "object_version", "bytes"), kind)
        asked = [requests_about(model, enrichment, kind, shape, together) for shape in sizes.shapes or (None,)]
        if measured:
            asked = [_of_length(requests, measured.output_tokens) for requests in asked]
        rates, share = model.rates or FREE, items / len(asked)
        tokens = sum((usage for requests in asked for usage in requests), Usage())
        seconds = [model.expected_seconds(requests, 1) for requests in asked]
        usual = "" if measured else ", replies of usual length"
        usual += "; its price is not known" if model.rates is None else ""
        size = sizes.summary or ("images of 1920 x 1080 pixels" if kind is MediaKind.IMAGE else "videos of a minute")
        return Estimate(
            items=items,
            input_tokens=round(share * tokens.input_tokens),
            output_tokens=round(share * tokens.output_tokens),
            price=share * sum(rates.cost(usage) for requests in asked for usage in requests),
            seconds=share * sum(each or 0.0 for each in seconds) if None not in seconds else None,
            known_by=f"the vendor's rules, {size}{usual}",
        )


def requests_about(
    model: VisionModel, enrichment: Enrichment, kind: MediaKind, shape: MediaShape | None, together: int = 1
) -> list[Usage]:
    """The requests by which a model is asked about one object, of this shape or of a usual one.

    `together`: how many enrichments are asked of it, which some models combine.
    """
    combines = isinstance(model, HostedModel) and model.combine
    shared: dict[str, Any] = {"asked_together": together} if combines else {}
    size = (shape.width, shape.height) if shape else TYPICAL_SIZE
    if kind is MediaKind.IMAGE:
        return model.request_usages(enrichment, kind, size, **shared)
    from sightflow.tasks.media.windows import cut  # which links tracks

    length = (shape.seconds if shape else None) or TYPICAL_SECONDS
    sampling = model.sampling(enrichment)
    end = min(sampling.end or length, length)
    span = max(end - sampling.start, 0.0)
    count = sampling.frames or max(1, round(span * (sampling.fps or 0.5)))
    moments = [sampling.start + (k + 0.5) * span / count for k in range(count)]
    windows = cut(range(count), moments, end, enrichment, sampling.max_frames)
    usages: list[Usage] = []
    for window in windows:
        seconds = span if len(windows) == 1 else window.end - window.start
        sound = shape.has_sound if shape else True
        usages += model.request_usages(enrichment, kind, size, len(window.frames), seconds, sound, **shared)
    return usages


def _of_length(requests: Sequence[Usage], output_tokens: float) -> list[Usage]:
    """The same requests with replies that have so many tokens in all."""
    each = round(output_tokens / len(requests))
    return [Usage(usage.input_tokens, each, audio_input_tokens=usage.audio_input_tokens) for usage in requests]


def _charged(model: VisionModel, items: int, measured: MeasuredRates) -> Estimate:
    """At today's price; what was charged otherwise than the list said (cached tokens, failures) will be so again."""
    usage = Usage(round(measured.input_tokens), round(measured.output_tokens))
    then = model.rates_on(measured.until) or FREE
    by_list = then.dollars(usage)
    otherwise = min(2.0, measured.cost_usd / by_list) if by_list and measured.cost_usd else 1.0
    return Estimate(
        items=items,
        input_tokens=round(items * measured.input_tokens),
        output_tokens=round(items * measured.output_tokens),
        price=items * otherwise * (model.rates or FREE).dollars(usage),
        seconds=model.expected_seconds([usage], items) if measured.seconds is None else items * measured.seconds,
        known_by=_measured(measured),
    )


def _measured(measured: MeasuredRates) -> str:
    return f"measured over {measured.rows:,} rows until {measured.until}"


def _mean_bytes(objects: pl.DataFrame) -> float:
    mean = objects["bytes"].mean()
    return float(mean) if isinstance(mean, int | float) else 0.0
