"""The bill of a run stands beside its estimate, on the screen and in the catalog, and the next plan knows it."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.flows.enrich import enrich
from sightflow.infra.cli.run import show_report
from sightflow.infra.cli.screen import console
from sightflow.schemas.run.report import RunReport
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.create_artifacts import markdown
from sightflow.tasks.discover import discover
from sightflow.tasks.plan import plan
from sightflow.tasks.runtime import loaded_models
from tests.loopback.hosted_systems import KEY
from tests.loopback.server import Say
from tests.tasks.money.meter import MeteredOpenAI, patches

pytestmark = pytest.mark.usefixtures("prefect_server")


def pictures(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    for k in range(first, first + count):
        Image.new("RGB", (200 + 150 * (k % 10), 300), (k, 60, 90)).save(folder / f"{k:03d}.png")


def test_the_bill_stands_beside_the_estimate_and_the_next_plan_expects_what_it_was(
    tmp_path: Path, write_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(loaded_models, "_LOADED", {})
    pictures(tmp_path / "media", 20)
    provider = MeteredOpenAI(lambda _: Say("A plain picture."))
    provider.image, provider.dollars, provider.reply_tokens = patches(1.2), (0.1, 0.5), 37  # type: ignore[method-assign]
    with provider:
        spec = read_spec(
            write_spec(
                f"{tmp_path}/media/*",
                models={"gpt-4o": {"id": "gpt-6-luna", "base_url": provider.url}},
                enrichments=[{"capability": "image captioning", "name": "caption", "model": "gpt-4o"}],
                policy={"hosted": "allow"},
            )
        )
        first = enrich(spec)
        assert first.published == 20 and first.cost_usd == pytest.approx(provider.charged)
        assert first.estimated_usd > first.cost_usd, "its replies were taken to be of usual length"
        (bill,) = first.bills
        assert (bill.items, bill.rows, bill.model_id) == (20, 20, "gpt-6-luna")
        assert (bill.input_tokens, bill.output_tokens) == tuple(provider.billed_tokens.values())
        assert bill.cost_usd == pytest.approx(first.cost_usd) and bill.estimated_usd == first.estimated_usd
        assert bill.seconds > 0 and bill.busy_seconds > 0
        stored = Catalog(uri=spec.catalog).scan("runs").collect()["report"][0]
        assert RunReport.model_validate_json(stored).bills == first.bills
        with console.capture() as shown:
            show_report(first)
        assert "expected; catalog version" in shown.get() and "caption (image)" in shown.get()
        assert "| caption (image) | 20 |" in markdown(first)

        pictures(tmp_path / "media", 20, first=20)
        before = provider.charged
        run_plan = plan.without_prefect(discover.without_prefect(spec, check=False), spec)
        assert "measured over 20 rows" in run_plan.plans[0].estimate.known_by
        second = enrich(spec)
    assert second.published == 20 and second.cost_usd == pytest.approx(provider.charged - before)
    assert second.estimated_usd == run_plan.price == pytest.approx(second.cost_usd, rel=0.02)
    assert json.loads(stored)["estimated_usd"] == first.estimated_usd
