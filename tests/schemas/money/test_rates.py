"""What a request costs, and the most that it can: by steps, days, kinds of tokens, and in a batch."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightflow.schemas.money.rates import FREE, Rates, Step, TokenRates
from sightflow.schemas.vision import Usage

MILLION = 1_000_000
NEW_YEAR = date(2027, 1, 1)


def at(day: date, hour: int = 12) -> datetime:
    return datetime(day.year, day.month, day.day, hour, tzinfo=UTC)


def test_the_step_that_a_prompt_reaches_prices_all_of_its_tokens() -> None:
    rates = Rates(0.2, 1.6, steps=(Step(32_000, TokenRates(0.3, 2.4)), Step(128_000, TokenRates(0.6, 4.8))))
    assert rates.cost(Usage(32_000, MILLION)) == pytest.approx(0.0064 + 1.6)
    assert rates.cost(Usage(32_001, MILLION)) == pytest.approx(32_001 * 0.3 / MILLION + 2.4)
    assert rates.cost(Usage(200_000, 0)) == pytest.approx(0.12)


def test_cached_written_and_heard_tokens_have_their_own_rates_and_none_is_charged_twice() -> None:
    rates = Rates(1.0, 10.0, cached=0.1, written=1.25, audio=3.0)
    usage = Usage(MILLION, 0, cached_input_tokens=400_000, cache_write_tokens=100_000, audio_input_tokens=200_000)
    assert rates.cost(usage) == pytest.approx(0.04 + 0.125 + 0.6 + 0.3)
    more_than_there_are = Usage(MILLION, 0, cached_input_tokens=9 * MILLION, cache_write_tokens=MILLION)
    assert rates.cost(more_than_there_are) == pytest.approx(0.1)
    assert Rates(1.0, 10.0).cost(usage) == pytest.approx(1.0)


def test_the_price_is_that_of_the_day_of_the_request() -> None:
    rates = Rates(0.75, 3.75, later=(Rates(1.5, 7.5, since=NEW_YEAR), Rates(1.0, 5.0, since=date(2027, 6, 1))))
    usage = Usage(MILLION, MILLION)
    assert rates.cost(usage, at=at(date(2026, 12, 31), 23)) == pytest.approx(4.5)
    assert rates.cost(usage, at=at(NEW_YEAR, 0)) == pytest.approx(9.0)
    assert rates.cost(usage, at=at(date(2028, 1, 1))) == pytest.approx(6.0)
    assert rates.on(NEW_YEAR).input == 1.5
    assert [each.since for each in rates.on(NEW_YEAR).later] == [date(2027, 6, 1)]


def test_a_batch_takes_its_part_of_all_but_what_keeps_its_rate() -> None:
    usage = Usage(MILLION, MILLION, cached_input_tokens=MILLION)
    assert Rates(2.5, 10.0, cached=1.25, batch=0.5).cost(usage, in_batch=True) == pytest.approx(0.625 + 5.0)
    kept = Rates(2.5, 10.0, cached=1.25, batch=0.5, cached_in_batch=1.0)
    assert kept.cost(usage, in_batch=True) == pytest.approx(1.25 + 5.0)
    assert Rates(2.5, 10.0).cost(usage, in_batch=True) == pytest.approx(12.5), "no batch, no part"


def test_a_bound_looks_a_day_ahead_and_a_day_back_since_days_begin_at_other_hours_elsewhere() -> None:
    dearer = Rates(1.0, 1.0, later=(Rates(2.0, 2.0, since=NEW_YEAR),))
    assert dearer.bound(MILLION, 0, at=at(date(2026, 12, 30))) == pytest.approx(1.0)
    assert dearer.bound(MILLION, 0, at=at(date(2026, 12, 31))) == pytest.approx(2.0)
    cheaper = Rates(2.0, 2.0, later=(Rates(1.0, 1.0, since=NEW_YEAR),))
    assert cheaper.bound(MILLION, 0, at=at(NEW_YEAR)) == pytest.approx(2.0)
    assert cheaper.bound(MILLION, 0, at=at(date(2027, 1, 2))) == pytest.approx(1.0)


def test_what_is_free_stays_free() -> None:
    assert FREE.cost(Usage(10, 10)) == FREE.bound(10, 10) == 0


rate = st.floats(0, 100)
maybe = st.none() | rate
tokens = st.integers(0, 2_000_000)
token_rates = st.builds(TokenRates, rate, rate, cached=maybe, written=maybe, audio=maybe)
steps = st.lists(st.builds(Step, st.integers(1, MILLION), token_rates), max_size=3, unique_by=lambda step: step.above)
day = st.dates(date(2026, 6, 1), date(2027, 6, 1))


@st.composite
def price_lists(draw: st.DrawFn) -> Rates:
    def one(since: date | None, later: tuple[Rates, ...] = ()) -> Rates:
        return Rates(
            draw(rate),
            draw(rate),
            cached=draw(maybe),
            batch=draw(st.none() | st.floats(0.1, 1)),
            written=draw(maybe),
            audio=draw(maybe),
            cached_in_batch=draw(st.none() | st.floats(0, 1)),
            steps=tuple(sorted(draw(steps), key=lambda step: step.above)),
            since=since,
            later=later,
        )

    starts = sorted(draw(st.sets(day, max_size=3)))
    return one(None, tuple(one(start) for start in starts))


@given(price_lists(), tokens, tokens, st.data())
def test_no_request_of_at_most_so_many_tokens_costs_more_than_the_bound(
    rates: Rates, into: int, out: int, data
) -> None:
    share = st.integers(0, into)
    usage = Usage(
        data.draw(share),
        data.draw(st.integers(0, out)),
        cached_input_tokens=data.draw(share),
        cache_write_tokens=data.draw(share),
        audio_input_tokens=data.draw(share),
    )
    now = at(data.draw(day), data.draw(st.integers(0, 23)))
    sent = now + timedelta(hours=data.draw(st.integers(-24, 24)))
    in_batch = data.draw(st.booleans())
    bound = rates.bound(into, out, in_batch, at=now)
    assert rates.cost(usage, in_batch, at=sent) <= bound * (1 + 1e-9) + 1e-12
