"""List prices: dated, sourced, by the library and by own data; a user's settings come first; what changes is told."""

import json
import sys
from datetime import date, timedelta

import pytest

from sightflow.blocks.models.hosted_profiles import HostedProfile
from sightflow.blocks.models.prices import price_list
from sightflow.blocks.models.prices.listed_price import ListedPrice
from sightflow.blocks.models.prices.price_list import listed_price, read_prices
from sightflow.blocks.models.systems.gemini import Gemini
from sightflow.blocks.models.systems.gpt_4o import GPT4o
from sightflow.blocks.models.systems.qwen_vl_max import QwenVLMax
from sightflow.infra.price_snapshot import snapshot
from sightflow.schemas.money import calendar_day
from sightflow.schemas.money.rates import Rates
from sightflow.schemas.vision import Usage

SYSTEMS = (GPT4o, Gemini, QwenVLMax)
DAY = date(2026, 11, 27)


def price(provider: str, model_id: str) -> ListedPrice:
    found = listed_price(provider, model_id)
    assert found is not None
    return found


def test_the_file_says_what_the_locked_library_says() -> None:
    """After `make relock`: python -m sightflow.infra.price_snapshot"""
    assert read_prices("from_genai_prices.json") == snapshot()


def test_an_introductory_price_ends() -> None:
    rates = price("google", "gemini-3.8-flash").rates
    before, after = rates.on(date(2026, 12, 31)), rates.on(date(2027, 1, 1))
    assert (before.input, before.output) == (0.75, 3.75)
    assert (after.input, after.output, after.cached) == (1.50, 7.50, 0.15)


def test_steps_by_the_length_of_the_prompt() -> None:
    luna = price("openai", "gpt-6-luna").rates.on(DAY)
    assert (luna.input, luna.output, luna.cached) == (0.10, 0.50, 0.01)
    assert luna.cost(Usage(272_001, 0)) == pytest.approx(2 * 0.10 * 272_001 / 1e6)
    assert luna.of_prompt(300_000).output == pytest.approx(0.75)
    plus = price("alibaba", "qwen3-vl-plus").rates
    assert [plus.of_prompt(n).input for n in (32_000, 32_001, 128_001)] == [0.20, 0.30, 0.60]
    assert price("alibaba", "qwen3.7-plus").rates.of_prompt(256_001).output == 4.80


def test_all_batches_are_at_half_price_where_there_are_any() -> None:
    for model_id, provider in (("gpt-6-luna", "openai"), ("gemini-3.8-flash", "google"), ("qwen3.7-plus", "alibaba")):
        assert price(provider, model_id).rates.on(DAY).batch == 0.5


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.price_provider)
def test_every_price_says_where_and_when_it_was_read(system) -> None:
    priced = [listed_price(system.price_provider, model_id) for model_id in system.profiles]
    assert sum(each is not None for each in priced) >= 10
    for each in filter(None, priced):
        assert each.source and date(2026, 6, 1) < each.read_on <= DAY


def test_the_library_itself_is_imported_only_for_what_the_file_lacks() -> None:
    script = (
        "import sys\n"
        "from sightflow.blocks.models.systems.gpt_4o import GPT4o\n"
        "assert GPT4o().rates and GPT4o(id='gpt-6-luna').rates\n"
        "print('genai_prices' in sys.modules)\n"
        "print(GPT4o(id='gpt-5.5-pro').rates.input, 'genai_prices' in sys.modules)"
    )
    import subprocess

    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert said == ["False", "30.0", "True"]


def test_another_version_of_the_library_counts_at_once(monkeypatch) -> None:
    monkeypatch.setattr(price_list, "_library_version", lambda: "99")
    listed_price.cache_clear()
    try:
        found = price("openai", "gpt-6-luna")
        assert found.rates == read_prices("from_genai_prices.json").prices["openai"]["gpt-6-luna"].rates
    finally:
        listed_price.cache_clear()


def test_a_users_prices_come_first() -> None:
    own = GPT4o(id="gpt-6-luna", usd_per_million_input=3, usd_per_million_output=4).rates
    assert own and own.cost(Usage(1_000_000, 0)) == 3 and own.batch == 0.5 and not own.later and not own.steps
    cached = GPT4o(id="gpt-6-luna", usd_per_million_cached_input=0.05).rates
    assert cached and cached.cost(Usage(300_000, 0, cached_input_tokens=300_000)) == pytest.approx(0.015)
    assert cached.input == 0.10
    batch = GPT4o(id="gpt-6-luna", batch_price_share=0.25).rates
    assert batch and batch.cost(Usage(0, 1_000_000), in_batch=True) == pytest.approx(0.125)
    assert GPT4o(id="of-my-own", usd_per_million_input=3).rates is None


def test_what_is_said_of_today_follows_the_calendar(monkeypatch) -> None:
    model = Gemini(id="gemini-3.8-flash")
    for day, dollars, changes in ((date(2026, 12, 31), 0.75, True), (date(2027, 1, 1), 1.5, False)):
        monkeypatch.setattr(calendar_day, "today", lambda day=day: day)
        assert model.rates and model.rates.input == dollars
        assert model.rates.cost(Usage(1_000_000, 0)) == dollars
        assert ("holds until 2026-12-31" in model.notice) == changes
    assert "was read 79 days ago" not in model.notice
    monkeypatch.setattr(calendar_day, "today", lambda: date(2027, 1, 13))
    assert "was read 91 days ago" in model.notice


def test_a_price_that_changes_is_told_and_so_is_one_that_is_old() -> None:
    changing = price("google", "gemini-4-argon")
    (told,) = changing.notices("gemini-4-argon", DAY)
    assert "until 2026-11-30" in told and "$4" in told and "dearer" in told
    assert changing.notices("gemini-4-argon", date(2026, 12, 1)) == []
    aged = ListedPrice(Rates(1, 2), "a page", DAY - timedelta(days=91))
    assert "91 days ago" in aged.notices("x", DAY)[0]
    assert ListedPrice(Rates(1, 2), "a page", DAY - timedelta(days=90)).notices("x", DAY) == []


@pytest.mark.parametrize(
    "ends, day, told",
    [
        ("2027-01-14", date(2026, 11, 14), ""),
        ("2027-01-14", date(2026, 11, 15), "in 60 days"),
        ("2027-01-14", date(2027, 1, 14), "in 0 days"),
        ("2026-07", date(2026, 11, 27), "was announced to end 2026-07"),
        (None, date(2026, 11, 27), ""),
    ],
)
def test_an_end_within_sixty_days_is_told(ends, day, told) -> None:
    said = HostedProfile(ends=ends, successor="next").end_notice("x", day)
    assert told in said and bool(told) == bool(said) and (not said or "next" in said)


def test_own_data_fill_gaps_and_no_more() -> None:
    own = json.loads((price_list._FOLDER / "own_prices.json").read_text())["prices"]
    assert set(own) == {"alibaba"}
    assert set(own["alibaba"]) <= set(QwenVLMax.profiles)
