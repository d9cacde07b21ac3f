"""Counters of what a process has done, in Prometheus' form."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from prometheus_client import Counter

from sightflow.schemas.failure import Stage
from sightflow.schemas.run.timing import Span
from sightflow.tasks.validate import Validated

_ITEMS = Counter("sightflow_items", "Enrichments of objects that came out", ["catalog", "enrichment", "outcome"])
_FAILURES = Counter("sightflow_failures", "Those that went to the quarantine, by cause", ["catalog", "cause"])
_TOKENS = Counter("sightflow_tokens", "Tokens of published rows", ["catalog", "system", "direction"])
_COST = Counter("sightflow_cost_usd", "US dollars, of failures too", ["catalog", "system"])
_STAGE_SECONDS = Counter("sightflow_stage_seconds", "Seconds in each stage, added over threads", ["catalog", "stage"])
_BUSY = Counter("sightflow_model_busy_seconds", "Seconds in which a model was at work", ["catalog", "system"])


def record_metrics(catalog: str, shards: Sequence[Validated]) -> None:
    """Count shards that have been published."""
    for shard in shards:
        for frame, outcome in ((shard.rows, "published"), (shard.failed, "quarantined")):
            for enrichment, items in frame["enrichment"].value_counts().iter_rows():
                _ITEMS.labels(catalog, enrichment, outcome).inc(items)
            for system, cost in frame.group_by("system").agg(pl.col("cost_usd").sum()).iter_rows():
                _COST.labels(catalog, system).inc(cost)
        for cause, items in shard.failed["cause"].value_counts().iter_rows():
            _FAILURES.labels(catalog, cause).inc(items)
        tokens = shard.rows.group_by("system").agg(pl.col("input_tokens", "output_tokens").sum())
        for system, input_tokens, output_tokens in tokens.iter_rows():
            _TOKENS.labels(catalog, system, "input").inc(input_tokens)
            _TOKENS.labels(catalog, system, "output").inc(output_tokens)
        for span in shard.spans:
            record_stage_seconds(catalog, span)
            if span.stage is Stage.INFER:
                _BUSY.labels(catalog, shard.system).inc(span.seconds)


def record_stage_seconds(catalog: str, span: Span) -> None:
    """Count the seconds of a stage; what a run does once, when it starts, is told in its report."""
    if isinstance(span.stage, Stage):
        _STAGE_SECONDS.labels(catalog, span.stage).inc(span.seconds)
