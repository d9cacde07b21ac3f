"""Batches as a person meets them: planned, submitted by `run`, looked at, cancelled, published by `collect`."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.flows.collect import collect
from sightflow.flows.enrich import enrich
from sightflow.infra.service.deployments import deploy
from sightflow.schemas.run.report import QuarantineExceeded
from tests.command_line import app
from tests.loopback.hosted_systems import GEMINI, GPT, KEY
from tests.loopback.server import Received, Say
from tests.tasks.batches.stages import VARIABLES, images, spec_of

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.setenv(variable, KEY)


def said(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    return done.output


def plain(received: Received) -> Say:
    return Say("a plain image")


def test_a_batch_from_the_plan_to_the_catalog(tmp_path: Path) -> None:
    images(tmp_path / "media", 5)
    (tmp_path / "media" / "broken.png").write_bytes(b"")
    with GPT.on_loopback(plain) as provider:
        provider.batches.polls = 2
        spec = spec_of(tmp_path, GPT.name, provider.url)
        file, catalog = str(tmp_path / "catalog.yaml"), str(tmp_path / "catalog")
        assert "by batch, at 50% of the price" in said("plan", file)
        report = enrich(spec)
        assert (report.submitted, report.published, report.quarantined) == (5, 0, 1)
        listed = said("batches", "list", catalog)
        assert "submitted" in listed and "batch_0000" in listed
        (batch,) = [word for word in listed.split() if len(word) == 8 and set(word) <= set("0123456789abcdef")]
        shown = said("batches", "show", catalog, batch)
        assert "caption" in shown and "may cost at most" in shown
        plans = json.loads(said("plan", file, "--json"))
        assert plans["enrichments"][0]["counts"]["under way"] == 5 and plans["to_compute"] == 0
        assert "submitted: the vendor works on it" in said("collect", file)
        said("collect", file)
        assert "5 published" in said("collect", file)
        assert "no batch is under way" in said("collect", file)
        assert "no batch is under way" in said("batches", "list", catalog)
        assert "closed" in said("batches", "list", catalog, "--all")
    rows = Catalog.at(catalog).scan("enrichments").collect()
    assert rows.height == 5 and rows["run_id"].n_unique() == 1
    reports = [json.loads(each) for each in Catalog.at(catalog).scan("runs").collect()["report"]]
    collected, submitted = sorted(reports, key=lambda each: int(each["submitted"]))
    assert [(each["submitted"], each["published"]) for each in (collected, submitted)] == [(0, 5), (5, 0)]
    (bill,) = collected["bills"]
    assert (bill["rows"], bill["delivery"], bill["price_share"]) == (5, "batch", 0.5)
    assert bill["cost_usd"] == pytest.approx(rows["cost_usd"].sum()) == collected["cost_usd"]
    assert bill["estimated_usd"] == pytest.approx(submitted["submitted_usd"]) == collected["estimated_usd"]
    assert 0 < bill["estimated_usd"] < submitted["plans"][0]["price"] and submitted["estimated_usd"] == 0
    Image.new("RGB", (16, 16), "white").save(tmp_path / "media" / "new.png")
    (plan,) = json.loads(said("plan", file, "--json"))["enrichments"]
    assert "measured over 5 rows" in plan["estimate"]["known_by"]
    assert plan["price"] == pytest.approx(plan["to_compute"] * rows["cost_usd"].mean(), rel=0.01), "halved once"


def test_a_run_that_meets_its_budget_submits_what_fits_and_the_next_ones_the_rest(tmp_path: Path) -> None:
    images(tmp_path / "media", 4)
    with GPT.on_loopback(plain) as provider:
        spec = spec_of(tmp_path, GPT.name, provider.url, policy={"budget": {"run": 1}}, max_new_tokens=1000)
        enrich(spec)
        (whole,) = json.loads(said("budget", spec.catalog, "--json"))["blocks"]
        assert len(whole["batch"]) == 32 and "collect SPEC" in said("budget", spec.catalog)
        budget = {"budget": {"run": 0.6 * whole["held_usd"]}}
        spec = spec_of(tmp_path, GPT.name, provider.url, policy=budget, catalog="tight", max_new_tokens=1000)
        file = str(tmp_path / "tight.yaml")
        done = CliRunner().invoke(app, ["run", file], env={"COLUMNS": "300"})
        assert done.exit_code == 4, done.output
        assert "the budget of the run is met" in done.output and "2 of 4 are left" in done.output
        (held,) = json.loads(said("budget", file, "--json"))["blocks"]
        assert 0 < held["held_usd"] <= 0.6 * whole["held_usd"]
        assert f"held by the batch {held['batch'][:8]} at OpenAI for run" in said("budget", file)
        assert "2 published" in said("collect", file)
        assert enrich(spec).submitted == 2
        assert "2 published" in said("collect", file)
        shown = json.loads(said("budget", file, "--json"))
        assert shown["blocks"] == [] and shown["months"][0]["unknown_usd"] == 0
        rows = Catalog(uri=spec.catalog).scan("enrichments").collect()
        assert rows.height == 4 and shown["months"][0]["spent_usd"] == pytest.approx(rows["cost_usd"].sum())


def test_a_cancelled_batch_is_asked_again_by_the_next_run(tmp_path: Path) -> None:
    images(tmp_path / "media", 2)
    with GEMINI.on_loopback(plain) as provider:
        provider.batches.polls = 100
        spec = spec_of(tmp_path, GEMINI.name, provider.url)
        enrich(spec)
        (batch,) = provider.batches.jobs.values()
        assert "has been told" in said("batches", "cancel", str(tmp_path / "catalog.yaml"), batch.name[:8])
        assert "2 not done" in said("collect", str(tmp_path / "catalog.yaml"))
        assert enrich(spec).submitted == 2


def test_collect_ends_as_a_run_does_when_too_much_has_failed(tmp_path: Path) -> None:
    images(tmp_path / "media", 4)

    def behave(received: Received) -> Say:
        return Say("", "empty") if received.images[0].getpixel((0, 0))[1] % 2 else Say("fine")

    with GPT.on_loopback(behave) as provider:
        spec = spec_of(tmp_path, GPT.name, provider.url, policy={"max_quarantine_ratio": 0.2})
        enrich(spec)
        with pytest.raises(QuarantineExceeded, match="2 of 4"):
            collect(spec)
    assert Catalog(uri=spec.catalog).scan("enrichments").collect().height == 2


def test_a_spec_with_batches_is_deployed_with_what_collects_them(tmp_path: Path, prefect_server: Any) -> None:
    images(tmp_path / "media", 1)
    spec = spec_of(tmp_path, GPT.name, "http://127.0.0.1:9/v1")
    made = deploy("batched", spec)
    assert [(each.name, each.starts) for each in made] == [
        ("enrich/batched", made[0].starts),
        ("collect/batched", "every 600 s"),
    ]
    directly = spec_of(tmp_path, GPT.name, "http://127.0.0.1:9/v1", policy={"delivery": "direct"})
    assert [each.name for each in deploy("batched", directly)] == ["enrich/batched"]
