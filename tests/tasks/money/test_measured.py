"""What earlier runs took is what the next is expected to take: of the same enrichment and model, and of such media."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.money.estimate import Bill
from sightflow.schemas.run.plan import RunPlan
from sightflow.schemas.run.report import RunReport
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.discover import discover
from sightflow.tasks.money.measured import EarlierRuns, _bills
from sightflow.tasks.plan import plan
from sightflow.tasks.report import run_row
from tests.loopback.hosted_systems import KEY
from tests.tasks.money.test_estimate_and_bill import pictures

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ASKED = ("caption", MediaKind.IMAGE, "gpt-4o", "gpt-4o")


def bill(**changes: Any) -> Bill:
    usual = {
        "enrichment": "caption", "media_kind": "image", "system": "gpt-4o", "model_id": "gpt-4o", "recipe": "r",
        "items": 100, "rows": 100, "input_tokens": 80_000, "output_tokens": 5_000, "cost_usd": 0.25,
        "mean_bytes": 1000.0, "seconds": 50.0, "busy_seconds": 40.0,
    }  # fmt: skip
    return Bill(**(usual | changes))


def record(catalog: str, *bills: Bill, at: datetime = NOW) -> None:
    counts = dict.fromkeys(("objects", "planned", "published", "unchanged", "orphaned", "pruned"), 0)
    done = RunReport(run_id="1", catalog=catalog, started_at=at, finished_at=at, bills=list(bills), **counts)
    Catalog(uri=catalog).record_run(run_row(done))


def spec_for(write_spec: Any, source: str, **sections: Any) -> EnrichmentSpec:
    usual = {
        "models": {"gpt-4o": {"id": "gpt-4o"}},
        "enrichments": [{"capability": "image captioning", "name": "caption", "model": "gpt-4o"}],
        "policy": {"hosted": "allow"},
    }
    return read_spec(write_spec(source, **(usual | sections)))


def planned(spec: EnrichmentSpec) -> RunPlan:
    return plan.without_prefect(discover.without_prefect(spec, check=False), spec)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def test_no_runs_tell_nothing(tmp_path: Path) -> None:
    assert EarlierRuns.of(Catalog(uri=f"file://{tmp_path}/catalog")).rates(*ASKED, "r") is None


def test_means_are_over_rows_and_money_over_all_that_was_tried(tmp_path: Path) -> None:
    catalog = f"file://{tmp_path}/catalog"
    record(catalog, bill(rows=50, items=100, input_tokens=50_000, output_tokens=500, cost_usd=1.0))
    record(catalog, bill(input_tokens=250_000, output_tokens=1_000, cost_usd=3.0), at=NOW + timedelta(days=1))
    measured = EarlierRuns.of(Catalog(uri=catalog)).rates(*ASKED, "r")
    assert measured is not None
    assert (measured.rows, measured.items, measured.until) == (150, 200, (NOW + timedelta(days=1)).date())
    assert (measured.input_tokens, measured.output_tokens) == (2000, 10)
    assert measured.cost_usd == pytest.approx(0.02)


def test_bills_by_batch_tell_the_price_of_direct_requests_and_no_time(tmp_path: Path) -> None:
    catalog = f"file://{tmp_path}/catalog"
    by_batch = bill(delivery="batch", price_share=0.5, cost_usd=0.125, seconds=0.0, busy_seconds=0.0)
    record(catalog, by_batch)
    measured = EarlierRuns.of(Catalog(uri=catalog)).rates(*ASKED, "r")
    assert measured is not None and (measured.cost_usd, measured.seconds) == (0.0025, None)
    record(catalog, bill())
    measured = EarlierRuns.of(Catalog(uri=catalog)).rates(*ASKED, "r")
    assert measured is not None and (measured.rows, measured.cost_usd, measured.seconds) == (200, 0.0025, 0.5)


def test_the_same_recipe_counts_before_any_other_and_another_model_never(tmp_path: Path) -> None:
    catalog = f"file://{tmp_path}/catalog"
    record(catalog, bill(recipe="old", input_tokens=100), bill(recipe="r", input_tokens=200))
    record(catalog, bill(model_id="gpt-6-luna"), bill(enrichment="other"), bill(media_kind="video"))
    earlier = EarlierRuns.of(Catalog(uri=catalog))
    assert [earlier.rates(*ASKED, recipe).input_tokens for recipe in ("r", "old", "new")] == [2, 1, 1.5]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "report", ["", "[]", "{", '{"bills": 3}', '{"bills": [3, {"enrichment": 1}]}', '{"bills": [{"rows": "x"}]}']
)
def test_a_report_that_is_odd_tells_nothing(report: str) -> None:
    assert list(_bills(report)) == []


def test_a_plan_expects_what_was_measured_at_todays_price(tmp_path: Path, write_spec: Any) -> None:
    spec = spec_for(write_spec, pictures(tmp_path / "media"))
    size = sum(file.stat().st_size for file in (tmp_path / "media").iterdir()) / 10
    record(spec.catalog, bill(mean_bytes=size, cost_usd=0.5 * (80_000 * 2.5 + 5_000 * 10) / 1e6))
    (only,) = planned(spec).plans
    expected = only.estimate
    assert (expected.input_tokens, expected.output_tokens) == (8_000, 500)
    assert only.price == pytest.approx(0.0125), "half of the list: what was cached before will be again"
    assert expected.seconds == pytest.approx(5.0)
    assert expected.known_by == "measured over 100 rows until 2026-11-20"


def test_of_other_media_the_rules_count_and_the_length_of_replies_as_it_was(tmp_path: Path, write_spec: Any) -> None:
    spec = spec_for(write_spec, pictures(tmp_path / "media"))
    record(spec.catalog, bill(mean_bytes=10_000_000.0))
    expected = planned(spec).plans[0].estimate
    assert "rules" in expected.known_by and "usual length" not in expected.known_by
    assert expected.output_tokens == 500 and expected.input_tokens != 8_000


def test_a_model_here_costs_its_time_where_an_hour_has_a_price(tmp_path: Path, write_spec: Any) -> None:
    source = pictures(tmp_path / "media")
    local = {"enrichments": [{"capability": "image captioning", "name": "caption", "model": "florence-2"}]}
    models = {"models": read_spec(write_spec(source)).models}
    spec = spec_for(write_spec, source, **local, **models)
    (before,) = planned(spec).plans
    assert (before.price, before.estimate.seconds) == (0, None) and "first run" in before.estimate.known_by
    first = before.route.candidates[0]
    record(spec.catalog, bill(system="florence-2", model_id=first.model_id, recipe=before.recipe, cost_usd=0.0))
    (free,) = planned(spec).plans
    assert (free.price, free.estimate.seconds) == (0, pytest.approx(5.0))
    (paid,) = planned(spec_for(write_spec, source, **local, **models, policy={"gpu_hour_usd": 3.6})).plans
    assert paid.price == pytest.approx(10 * 0.4 / 3600 * 3.6) and "$3.6 for an hour" in paid.estimate.known_by


def written(**changes: Any) -> str:
    return json.dumps({"bills": [bill().model_dump(mode="json") | changes]})


@pytest.mark.parametrize(
    "report",
    [
        "[" * 100_000,
        written(items=0),
        written(items=-5),
        written(cost_usd=float("nan")),
        written(cost_usd=float("inf")),
        written(input_tokens=10**400),
        written(mean_bytes=-1.0),
    ],
)
def test_a_report_that_makes_no_sense_tells_nothing(report: str) -> None:
    assert list(_bills(report)) == []
    assert len(list(_bills(written()))) == 1
