"""What each enrichment of a run is charged, added up as its rows are committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Stage
from sightflow.schemas.money.estimate import Bill
from sightflow.schemas.run.plan import EnrichmentPlan
from sightflow.schemas.run.timing import Span


@dataclass
class Sum:
    """What was charged for some rows, and for what failed."""

    rows: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    busy_seconds: float = 0.0


class Bills:
    """`sums` by enrichment and kind of media, of the shards that have been committed."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, MediaKind], Sum] = {}

    def add(self, media_kind: MediaKind, rows: pl.DataFrame, failed: pl.DataFrame, spans: Sequence[Span]) -> None:
        """Add a shard's rows, what failed of it, and the time its model took: shared by the tokens it has written."""
        busy = sum(span.seconds for span in spans if span.stage is Stage.INFER)
        written = rows.group_by("enrichment").agg(
            pl.len(), pl.sum("input_tokens"), pl.sum("output_tokens"), pl.sum("cost_usd")
        )
        share = busy / max(1, sum(written["output_tokens"]) + rows.height)
        for name, count, into, out, cost in written.iter_rows():
            each = self._of(name, media_kind)
            each.rows += count
            each.input_tokens += into
            each.output_tokens += out
            each.cost_usd += cost
            each.busy_seconds += share * (out + count)
        for name, count, cost in failed.group_by("enrichment").agg(pl.len(), pl.sum("cost_usd")).iter_rows():
            each = self._of(name, media_kind)
            each.failed += count
            each.cost_usd += cost

    def _of(self, enrichment: str, media_kind: MediaKind) -> Sum:
        return self.sums.setdefault((enrichment, media_kind), Sum())

    def of(
        self, plans: Sequence[EnrichmentPlan], frame: pl.DataFrame, seconds: float, gpu_hour_usd: float | None
    ) -> list[Bill]:
        """One bill for each enrichment that was asked. `frame`: that of the plan. `seconds`: that the pipeline took.

        Of what goes by batch it is about what failed before it could be asked; the rest is billed by `collect`.
        """
        sizes = _mean_bytes(frame) if self.sums else {}
        busy = sum(each.busy_seconds for each in self.sums.values())
        bills = []
        for plan in plans:
            found = self.sums.get((plan.enrichment, plan.media_kind))
            if found is None:
                continue
            first = plan.route.candidates[0]
            gpu = gpu_hour_usd if gpu_hour_usd and not first.hosted else 0.0
            bills.append(
                Bill(
                    enrichment=plan.enrichment,
                    media_kind=plan.media_kind,
                    system=first.system,
                    model_id=first.model_id,
                    recipe=plan.recipe,
                    items=found.rows + found.failed,
                    rows=found.rows,
                    input_tokens=found.input_tokens,
                    output_tokens=found.output_tokens,
                    cost_usd=found.cost_usd,
                    estimated_usd=plan.price if plan.delivery.by == "direct" else 0.0,
                    delivery=plan.delivery.by,
                    price_share=plan.delivery.price_share or 1.0,
                    mean_bytes=sizes.get((plan.enrichment, plan.media_kind), 0.0),
                    seconds=round(seconds * found.busy_seconds / busy, 3) if busy else 0.0,
                    busy_seconds=round(found.busy_seconds, 3),
                    gpu_usd=found.busy_seconds / 3600 * gpu,
                )
            )
        return bills


def _mean_bytes(frame: pl.DataFrame) -> dict[tuple[str, MediaKind], float]:
    """Of the objects that an enrichment is asked of, as they were listed."""
    by_enrichment = (
        frame.lazy()
        .select("media_kind", "bytes", "enrichments")
        .explode("enrichments")
        .group_by("media_kind", "enrichments")
        .agg(pl.mean("bytes"))
        .collect(engine="streaming")
    )
    return {(name, MediaKind(kind)): size or 0.0 for kind, name, size in by_enrichment.iter_rows()}
