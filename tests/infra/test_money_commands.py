"""What the screen says of money: whole tables at 80 columns, prices of today and later, and how a plan knows."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sightflow.schemas.money import calendar_day
from sightflow.schemas.money.words import count_of_tokens, length_of_time, money
from tests.command_line import app
from tests.loopback.hosted_systems import KEY
from tests.loopback.server import Say
from tests.tasks.money.meter import MeteredOpenAI
from tests.tasks.money.test_estimate_and_bill import SIZES, pictures
from tests.tasks.money.test_measured import bill, record


def said(*words: str, columns: int = 80) -> str:
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": str(columns)}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(calendar_day, "today", lambda: date(2026, 11, 27))
    for variable in ("OPENAI_API_KEY", "GOOGLE_API_KEY", "DASHSCOPE_API_KEY"):
        monkeypatch.setenv(variable, KEY)
    document = {
        "source": pictures(tmp_path / "media", SIZES[:4]),
        "catalog": str(tmp_path / "catalog"),
        "models": {"gpt-4o": {"id": "gpt-4o"}, "gemini": {"id": "gemini-3.8-flash"}},
        "enrichments": [
            {"capability": "image captioning", "name": "a_long_name_of_captions", "model": "gpt-4o"},
            {"capability": "object detection", "name": "things", "model": "gemini"},
        ],
        "policy": {"hosted": "allow"},
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_plan_shows_whole_names_tokens_price_and_time_and_why_in_a_line(spec: Path) -> None:
    shown = said("plan", str(spec))
    lines = shown.splitlines()
    rows = [line for line in lines if line.startswith(("a_long_name_of_captions (image) ", "things (image) "))]
    assert len(rows) == 4, "each stands whole in the table of counts and in that of prices"
    assert all(len(line.rstrip()) <= 80 for line in lines if "(image) " in line and ":" not in line)
    assert sum("tokens, price and time: the vendor's rules, sizes of 4 read" in line for line in lines) == 2
    (why,) = [line for line in lines if line.startswith("a_long_name_of_captions (image): gpt-4o (gpt-4o)")]
    assert "pinned in the spec" in why and "not " not in why
    (total,) = [line for line in lines if line.strip().startswith("all ")]
    assert "$" in total and "8" in total
    assert "gpt-4o ends 2027-01-14" in shown and "the price of gemini-3.8-flash holds until 2026-12-31" in shown


def test_why_not_another_is_said_when_it_is_asked(spec: Path) -> None:
    document = yaml.safe_load(spec.read_text())
    document["enrichments"] = [{"capability": "video captioning", "name": "films"}]
    (spec.parent / "media" / "a.mp4").write_bytes(b"")
    spec.write_text(yaml.safe_dump(document | {"source": f"{spec.parent}/media/*.mp4"}))
    assert "not florence-2" not in said("plan", str(spec))
    assert "not instruct-blip: " in said("plan", str(spec), "-v")


def test_a_vendor_counts_when_it_is_asked_to(spec: Path) -> None:
    document = yaml.safe_load(spec.read_text())
    document["enrichments"] = document["enrichments"][:1]
    provider = MeteredOpenAI(lambda _: Say("not asked"))
    provider.image = lambda size: 1000.0  # type: ignore[method-assign]
    with provider:
        document["models"]["gpt-4o"]["base_url"] = provider.url
        spec.write_text(yaml.safe_dump(document))
        shown = said("plan", str(spec), "--exact")
    assert "tokens in counted by the vendor over 4 objects" in shown and " 4.03k " in shown
    assert provider.received == [] and provider.complaints == []


def test_a_plan_as_json_has_the_estimates(spec: Path) -> None:
    document = json.loads(said("plan", str(spec), "--json"))
    estimates = [each["estimate"] for each in document["enrichments"]]
    assert [each["items"] for each in estimates] == [4, 4]
    assert document["price_usd"] == pytest.approx(sum(each["price"] for each in estimates))
    assert all(each["input_tokens"] > 0 and each["output_tokens"] > 0 and each["known_by"] for each in estimates)
    assert document["seconds"] == pytest.approx(sum(each["seconds"] for each in estimates))


def test_what_is_free_is_called_so(tmp_path: Path, write_spec: Any, stand_in: Any) -> None:
    path = write_spec(pictures(tmp_path / "media", SIZES[:2]), models={})
    shown = said("plan", str(path))
    assert "free" in shown and "$0" not in shown and "the first run shows how long it takes" in shown


def test_prices_of_today_and_of_a_later_day(spec: Path) -> None:
    shown = said("models", "prices", str(spec), "--on", "2027-01-01")
    (row,) = [line.split() for line in shown.splitlines() if line.strip().startswith("gemini-3.8-flash ")]
    assert row[1:3] == ["0.75", "3.75"] and row[5:7] == ["1.5", "7.5"]
    assert "then: 2027-01-01" in shown and "note the price of gemini-3.8-flash holds until 2026-12-31" in shown
    assert all(len(line.rstrip()) <= 80 for line in shown.splitlines() if line.startswith(" gemini"))
    by_cron = json.loads(said("models", "prices", str(spec), "--cron", "0 2 1 * *", "--json"))
    assert [each["model_id"] for each in by_cron] == ["gpt-4o", "gemini-3.8-flash"]
    assert by_cron[0]["today"]["cached"] == 1.25 and by_cron[0]["next_run"]["day"].endswith("-01")
    assert by_cron[1]["source"].startswith("genai-prices")


def test_the_price_of_an_hour_here_is_shown_where_a_spec_says_it(
    tmp_path: Path, write_spec: Any, stand_in: Any
) -> None:
    path = write_spec(pictures(tmp_path / "media", SIZES[:1]), models={}, policy={"gpu_hour_usd": 2.5})
    shown = said("models", "prices", str(path))
    assert "free" in shown and "$2.5 for an hour at work" in shown


def test_prices_of_every_id_that_is_known_with_their_steps(spec: Path) -> None:
    shown = said("models", "prices")
    for model_id in ("gpt-6-sol", "gemini-4-argon", "qwen3-vl-plus"):
        assert f"{model_id} " in shown
    assert "qwen3-vl-plus: $0.6 in, $4.8 out for prompts of more than 128,000 tokens" in shown


def test_a_day_that_is_none_is_refused() -> None:
    done = CliRunner().invoke(app, ["models", "prices", "--on", "soon"], env={"COLUMNS": "200"})
    assert done.exit_code == 2 and "write 2027-01-01" in done.output


def test_words_for_money_tokens_and_time() -> None:
    assert [money(each) for each in (0, 0.00012345, 0.5, 1, 1234.5)] == [
        "free",
        "$0.0001234",
        "$0.5",
        "$1.00",
        "$1,234.50",
    ]
    assert [count_of_tokens(each) for each in (None, 0, 999, 999.6, 12_345, 1_234_567, 3e9)] == [
        "?", "0", "999", "1k", "12.3k", "1.23M", "3G",
    ]  # fmt: skip
    assert [length_of_time(each) for each in (None, 0, 0.2, 59, 89, 91, 3600, 7200, 200_000)] == [
        "?", "0 s", "1 s", "59 s", "89 s", "1.5 min", "60 min", "2 h", "2.3 days",
    ]  # fmt: skip


def test_a_plan_expects_what_earlier_runs_took(spec: Path) -> None:
    document = yaml.safe_load(spec.read_text())
    document["enrichments"] = document["enrichments"][:1]
    spec.write_text(yaml.safe_dump(document))
    size = sum(file.stat().st_size for file in (spec.parent / "media").iterdir()) / 4
    record(f"file://{spec.parent}/catalog", bill(enrichment="a_long_name_of_captions", mean_bytes=size))
    assert "measured over 100 rows until 2026-11-20" in said("plan", str(spec))
