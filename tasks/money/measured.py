"""What items took in earlier runs, as the reports in the catalog's table `runs` tell it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import polars as pl
from pydantic import ValidationError

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.money.estimate import Bill, MeasuredRates

_LAST_RUNS = 20
_LONGEST_REPORT = 4_000_000  # characters
_MOST = 1e15  # of whatever a bill counts


class EarlierRuns:
    """The bills of the last runs, newest first."""

    def __init__(self, bills: Sequence[tuple[date, Bill]]) -> None:
        self._bills = bills

    @classmethod
    def of(cls, catalog: Catalog) -> EarlierRuns:
        """As the catalog has them; a report that cannot be read, or is of an earlier version, tells nothing."""
        runs = catalog.scan("runs")
        starts = catalog.read(runs.select("started_at").top_k(_LAST_RUNS, by="started_at"))
        if starts.is_empty():
            return cls([])
        last = runs.filter(pl.col("started_at") >= starts["started_at"].min())
        reports = catalog.read(last.select("started_at", "report")).sort("started_at", descending=True)
        return cls([(begun.date(), bill) for begun, report in reports.iter_rows() for bill in _bills(report)])

    def rates(
        self, enrichment: str, media_kind: MediaKind, system: str, model_id: str, recipe: str
    ) -> MeasuredRates | None:
        """What an item of this enrichment took of this model: of the same recipe, where it was ever asked by that."""
        asked = (enrichment, media_kind, system, model_id)
        same = [
            (day, bill)
            for day, bill in self._bills
            if (bill.enrichment, bill.media_kind, bill.system, bill.model_id) == asked and bill.rows
        ]
        return _mean([(day, bill) for day, bill in same if bill.recipe == recipe] or same)


def _mean(bills: Sequence[tuple[date, Bill]]) -> MeasuredRates | None:
    if not bills:
        return None
    rows, items = sum(bill.rows for _, bill in bills), sum(bill.items for _, bill in bills)

    def total(name: str) -> float:
        return float(sum(getattr(bill, name) for _, bill in bills))

    timed = [bill for _, bill in bills if bill.delivery == "direct"]
    tried = sum(bill.items for bill in timed)

    return MeasuredRates(
        rows=rows,
        items=items,
        input_tokens=total("input_tokens") / rows,
        output_tokens=total("output_tokens") / rows,
        cost_usd=sum(bill.cost_usd / bill.price_share for _, bill in bills) / items,
        seconds=sum(bill.seconds for bill in timed) / tried if tried else None,
        busy_seconds=sum(bill.busy_seconds for bill in timed) / tried if tried else 0.0,
        mean_bytes=sum(bill.mean_bytes * bill.rows for _, bill in bills) / rows,
        until=max(day for day, _ in bills),
    )


def _bills(report: str) -> Iterator[Bill]:
    try:
        document: Any = json.loads(report) if len(report) <= _LONGEST_REPORT else {}
    except (ValueError, RecursionError):
        return
    bills = document.get("bills") if isinstance(document, dict) else None
    for each in bills if isinstance(bills, list) else []:
        try:
            bill = Bill.model_validate(each)
        except ValidationError:
            continue
        if _makes_sense(bill):
            yield bill


def _makes_sense(bill: Bill) -> bool:
    """Whether something was asked and every number is one that a run can have had: a catalog is data, of anybody's."""
    numbers = [value for value in vars(bill).values() if isinstance(value, int | float)]
    return bill.items > 0 and all(0 <= number <= _MOST for number in numbers)
