"""A run's bills: of each enrichment what its rows and failures cost, and its part of the time that models worked."""

import polars as pl
import pytest

from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.failure import Stage
from sightflow.schemas.run.plan import Candidate, EnrichmentPlan, Route
from sightflow.schemas.run.timing import Span
from sightflow.tasks.runtime.bills import Bills


def plan_of(name: str, price: float, hosted: bool = True) -> EnrichmentPlan:
    first = Candidate(
        system="gpt-4o", model_id="gpt-4o", rating=5, hosted=hosted, price_per_item=0, usable=True, why=""
    )
    route = Route(capability=Capability.IMAGE_CAPTIONING, media_kind=MediaKind.IMAGE, candidates=[first])
    return EnrichmentPlan(
        enrichment=name,
        capability=Capability.IMAGE_CAPTIONING,
        media_kind=MediaKind.IMAGE,
        route=route,
        recipe="r",
        counts={},
        to_compute=3,
        price=price,
    )


ROWS = pl.DataFrame(
    {
        "enrichment": ["a", "a", "b"],
        "input_tokens": [100, 200, 1000],
        "output_tokens": [9, 9, 38],
        "cost_usd": [0.1, 0.2, 1.0],
    }
)
FAILED = pl.DataFrame({"enrichment": ["b"], "cost_usd": [0.5]})
SPANS = [Span(Stage.INFER, "p", 0.0, 4.0), Span(Stage.FETCH, "p", 0.0, 9.0), Span(Stage.INFER, "p", 5.0, 7.0)]
FRAME = pl.DataFrame({"media_kind": ["image", "image"], "bytes": [100, 300], "enrichments": [["a", "b"], ["a"]]})


def test_money_tokens_and_time_by_enrichment() -> None:
    bills = Bills()
    for _ in range(2):
        bills.add(MediaKind.IMAGE, ROWS, FAILED, SPANS)
    a, b = bills.of([plan_of("a", 0.7), plan_of("b", 2.0), plan_of("c", 1.0)], FRAME, 24.0, None)
    assert (a.items, a.rows, a.input_tokens, a.output_tokens) == (4, 4, 600, 36)
    assert (b.items, b.rows, b.cost_usd, b.estimated_usd) == (4, 2, pytest.approx(3.0), 2.0)
    assert (a.mean_bytes, b.mean_bytes) == (200.0, 100.0)
    # Twelve seconds at work, by the tokens that were written (and one a row): 20 of 59 and 39 of 59.
    assert (a.busy_seconds, b.busy_seconds) == (
        pytest.approx(12 * 20 / 59, abs=0.01),
        pytest.approx(12 * 39 / 59, abs=0.01),
    )
    assert a.seconds + b.seconds == pytest.approx(24.0, abs=0.01)
    assert a.gpu_usd == b.gpu_usd == 0


def test_an_hour_here_has_its_price_and_a_vendor_s_hour_none() -> None:
    bills = Bills()
    bills.add(MediaKind.IMAGE, ROWS, FAILED, SPANS)
    (here,) = bills.of([plan_of("a", 0.0, hosted=False)], FRAME, 6.0, 3600.0)
    (there,) = bills.of([plan_of("a", 0.0)], FRAME, 6.0, 3600.0)
    assert here.gpu_usd == pytest.approx(6 * 20 / 59) and there.gpu_usd == 0


def test_nothing_that_was_asked_has_no_bill() -> None:
    assert Bills().of([plan_of("a", 0.7)], FRAME, 1.0, None) == []
