"""What enrichments that went by batch were charged, beside what was expected of them when they were submitted."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import polars as pl

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.money.estimate import Bill
from sightflow.schemas.run.batch import Batch
from sightflow.schemas.run.plan import Shard
from sightflow.tasks.runtime.bills import Bills
from sightflow.tasks.validate import Validated

_LONGEST_REPORT = 4_000_000  # characters
_Key = tuple[str, MediaKind]


class CollectedBills:
    """Sums by model, enrichment and kind of media, of what one run of `collect` has published."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._of_models: dict[tuple[str, str, float], Bills] = {}
        self._recipes: dict[_Key, str] = {}
        self._bytes: defaultdict[tuple[str, _Key], int] = defaultdict(int)
        self._expected: defaultdict[tuple[str, _Key], float] = defaultdict(float)
        self._by_run: dict[str, dict[_Key, float]] = {}

    def add(self, batch: Batch, shard: Shard, validated: Validated, price_share: float) -> None:
        """Add what was published of a batch. `price_share`: of the price of direct requests."""
        if batch.run_id not in self._by_run:
            self._by_run[batch.run_id] = _expected_by(self._catalog, batch.run_id)
        bills = self._of_models.setdefault((batch.system, batch.model_id, price_share), Bills())
        bills.add(shard.media_kind, validated.rows, validated.failed, ())
        for resolved in shard.resolved_enrichments:
            self._recipes[resolved.enrichment.name, shard.media_kind] = resolved.recipe
        for item in shard.items:
            for name in item.enrichments:
                key = name, shard.media_kind
                self._bytes[batch.system, key] += item.bytes
                self._expected[batch.system, key] += self._by_run[batch.run_id].get(key, 0.0)

    def bills(self) -> list[Bill]:
        """One for each model, enrichment and kind of media."""
        return [
            Bill(
                enrichment=key[0],
                media_kind=key[1],
                system=system,
                model_id=model_id,
                recipe=self._recipes.get(key, ""),
                items=each.rows + each.failed,
                rows=each.rows,
                input_tokens=each.input_tokens,
                output_tokens=each.output_tokens,
                cost_usd=each.cost_usd,
                estimated_usd=self._expected[system, key],
                mean_bytes=self._bytes[system, key] / (each.rows + each.failed),
                delivery="batch",
                price_share=price_share,
            )
            for (system, model_id, price_share), bills in self._of_models.items()
            for key, each in bills.sums.items()
        ]


def _expected_by(catalog: Catalog, run_id: str) -> dict[_Key, float]:
    """What the plan of a run expected an item to cost, US dollars; nothing if that run has left no report."""
    rows = catalog.scan("runs").filter(pl.col("run_id") == run_id).select("report")
    for report in catalog.read(rows)["report"]:
        try:
            document: Any = json.loads(report) if len(report) <= _LONGEST_REPORT else {}
            plans = [each for each in document["plans"] if each["to_compute"]]
            return {
                (str(each["enrichment"]), MediaKind(each["media_kind"])): float(each["price"]) / int(each["to_compute"])
                for each in plans
            }
        except (ValueError, TypeError, KeyError):
            continue
    return {}
