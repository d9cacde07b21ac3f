"""A budget is a hard stop: what was answered is published, the rest is left and told, and the next run goes on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from sightflow import plan
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.money.ledger import Ledger
from sightflow.flows.enrich import enrich
from sightflow.schemas.failure import SpecError
from sightflow.schemas.run.report import RunOverBudget
from sightflow.schemas.run.selection import Selection
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.route import resolve_enrichments
from sightflow.tasks.runtime import loaded_models
from tests.command_line import app
from tests.e2e.test_deployments import found
from tests.e2e.test_ugly_inputs import encoded
from tests.loopback.billing.metered_openai import MeteredOpenAI
from tests.loopback.hosted_systems import KEY
from tests.loopback.server import Say

pytestmark = pytest.mark.usefixtures("prefect_server")
COUNT = 60
CAPTION = [{"capability": "image captioning", "name": "caption", "model": "gpt-4o"}]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[MeteredOpenAI]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(loaded_models, "_LOADED", {})
    with MeteredOpenAI(lambda received: Say("a plain picture")) as loopback:
        yield loopback


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    for k in range(COUNT):
        (folder / f"{k:03d}.png").write_bytes(encoded(Image.new("RGB", (16, 16), (k, 0, 0))))
    return folder


@pytest.fixture
def written(media: Path, provider: MeteredOpenAI, write_spec: Any) -> Any:
    """A spec with a budget, and what else its policy and its model say."""

    def write(budget: Any, asked: Any = CAPTION, model: Any = None, **policy: Any) -> Path:
        settings = {"base_url": provider.url, "max_concurrency": 4, "max_new_tokens": 30, **(model or {})}
        path: Path = write_spec(
            f"{media}/*",
            models={"gpt-4o": settings},
            enrichments=asked,
            policy={"shard_size": 10, "commit_rows": 1, "hosted": "allow", "budget": budget, **policy},
        )
        return path

    return write


def spent(spec: EnrichmentSpec) -> int:
    catalog = Catalog(uri=spec.catalog)
    balance = Ledger(catalog.store, catalog.uri).balance()
    assert not balance.blocks, "nothing is held when no run goes on"
    assert not any(each.unknown for each in balance.days.values())
    return sum(each.known for each in balance.days.values())


def published(spec: EnrichmentSpec) -> int:
    return Catalog(uri=spec.catalog).scan("enrichments").collect().height


def test_a_run_that_meets_its_budget_stops_and_later_runs_do_the_rest(
    written: Any, provider: MeteredOpenAI, prefect_server: Any
) -> None:
    spec = read_spec(written({"run": 0.02}))
    reports, said = [], ""
    while not reports or reports[-1].over_budget:
        try:
            reports.append(enrich(spec))
        except RunOverBudget as stopped:
            reports.append(stopped.report)
            said = said or str(stopped)
        assert published(spec) == sum(report.published for report in reports)
        assert reports[-1].left == COUNT - published(spec)
    first = reports[0]
    assert 0.018 < first.cost_usd <= 0.02 and first.left_usd > 0
    assert "the next run has its own" in said and f"{first.left} of {COUNT} are left, about $" in said
    (run,) = found(prefect_server, "flow_runs", flow_runs={"id": {"any_": [first.run_id]}})
    assert run["state_type"] == "FAILED" and "the budget of the run is met" in run["state"]["message"]
    assert len(reports) == 3
    assert published(spec) == COUNT
    assert set(provider.times.values()) == {1}, "each is asked once"
    assert spent(spec) == provider.total


def test_the_command_says_what_is_left_and_exits_with_four(written: Any, provider: MeteredOpenAI) -> None:
    path = written({"day": 0.02, "month": 5})
    planned = CliRunner().invoke(app, ["plan", str(path)])
    assert "$0.02 of the day's $0.02 are left, and more from 20" in planned.stdout
    done = CliRunner().invoke(app, ["run", str(path)])
    assert done.exit_code == 4, done.output
    assert "the budget of the day is met" in done.output and "00:00 UTC" in done.output
    again = CliRunner().invoke(app, ["run", str(path), "--json"])
    assert again.exit_code == 4
    report = json.loads(again.stdout)
    assert report["published"] <= 1 and report["left"] and report["over_budget"]
    assert provider.total <= 20_000_000
    shown = json.loads(CliRunner().invoke(app, ["budget", str(path), "--json"]).stdout)
    month, day = shown["months"][0], shown["days"][0]
    assert month["spent_usd"] == day["spent_usd"] == provider.total / 1e9
    assert 0 <= day["left_usd"] < 0.002 and month["left_usd"] == pytest.approx(5 - provider.total / 1e9)
    assert shown["runs"][-1]["spent_usd"] > 0 and shown["blocks"] == []
    table = CliRunner().invoke(app, ["budget", str(read_spec(path).catalog)])
    assert table.exit_code == 0 and "unknown: sent and never answered" in table.stdout


def test_no_other_system_is_asked_for_want_of_money(written: Any, stand_in: Any) -> None:
    asked = [{"capability": "visual reasoning", "name": "why", "question": "Why is it red?"}]
    spec = read_spec(written({"run": 0.01}, asked, fallback=True))
    assert resolve_enrichments(spec)[0].route.systems == ["gpt-4o", "florence-2"], "the next one would be free"
    with pytest.raises(RunOverBudget):
        enrich(spec)
    assert not stand_in.asked


def test_what_costs_nothing_goes_on(written: Any, stand_in: Any, provider: MeteredOpenAI) -> None:
    local = {"capability": "image captioning", "name": "local", "model": "florence-2"}
    spec = read_spec(written({"run": 0.004}, [*CAPTION, local]))
    with pytest.raises(RunOverBudget) as stopped:
        enrich(spec)
    rows = Catalog(uri=spec.catalog).scan("enrichments").collect()["enrichment"].value_counts()
    counts = dict(rows.iter_rows())
    assert counts["local"] == COUNT and 0 < counts["caption"] < COUNT
    assert stopped.value.report.left == COUNT - counts["caption"]


def test_an_item_that_no_budget_would_allow_is_quarantined_and_the_others_go_on(
    written: Any, provider: MeteredOpenAI
) -> None:
    path = written({"run": 0.0002}, model={"max_new_tokens": 400}, max_quarantine_ratio=1.0)
    spec = read_spec(path)
    report = enrich(spec, Selection(limit=3))
    assert report.causes == {"budget": 3} and provider.total == 0
    cases = Catalog(uri=spec.catalog).scan("quarantine").collect()
    assert "more than policy.budget.run, $0.0002" in cases["message"][0]
    planned = plan(read_spec(written({"run": 1})), Selection(limit=3))
    assert planned.to_compute == 3, "it is tried again, should the budget allow it by then"


def test_a_price_that_is_not_known_is_refused_with_the_remedy(written: Any, provider: MeteredOpenAI) -> None:
    unknown = {
        "id": "some/chat-vlm",
        "engine": "endpoint",
        "endpoint_url": "https://models.example.com/v1",
    }
    path = written({"day": 5}, [{**CAPTION[0], "model": "chat"}])
    document = path.read_text().replace("models:", f"models:\n  chat: {json.dumps(unknown)}", 1)
    path.write_text(document)
    with pytest.raises(SpecError, match=r"price is not known, and policy.budget is set; set usd_per_million_input"):
        resolve_enrichments(read_spec(path))


@pytest.mark.parametrize("wrong", [{"day": 0}, {"day": -3}, {"week": 5}, {"run": "much"}, 5])
def test_a_budget_that_is_none_is_refused(written: Any, wrong: Any) -> None:
    with pytest.raises(SpecError, match="budget"):
        read_spec(written(wrong))
