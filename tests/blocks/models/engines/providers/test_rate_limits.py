"""The rate limiter in virtual time: no minute ever sees more than the limit, and none of it is wasted."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightflow.blocks.models.engines.providers.rate_limits import MINUTE, RateLimiter, parse_duration
from tests.loopback.virtual_clock import VirtualClock

GO = threading.Event()  # never set


def worst_minute(entries: list[tuple[float, int]]) -> tuple[int, int]:
    """The most requests, and the most tokens, in any 60 seconds that begin with a request."""
    windows = [[tokens for at, tokens in entries if start <= at < start + MINUTE] for start, _ in entries]
    return max(map(len, windows)), max(map(sum, windows))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 20) | st.none(),
    st.integers(100, 3000) | st.none(),
    st.lists(st.tuples(st.integers(0, 100), st.floats(0, 20)), min_size=1, max_size=60),
)
def test_no_minute_exceeds_the_limits(requests_per_minute, tokens_per_minute, asked) -> None:
    clock = VirtualClock()
    limiter = RateLimiter(requests_per_minute, tokens_per_minute, clock)
    entries = []
    for tokens, pause in asked:
        clock.now += pause
        assert limiter.acquire(tokens, GO)
        entries.append((clock.now, tokens))
    most_requests, most_tokens = worst_minute(entries)
    assert requests_per_minute is None or most_requests <= requests_per_minute
    assert tokens_per_minute is None or most_tokens <= tokens_per_minute


def test_threads_share_the_limits() -> None:
    clock, entries, lock = VirtualClock(), [], threading.Lock()
    limiter = RateLimiter(30, 1000, clock)

    def work() -> None:
        for _ in range(20):
            reservation = limiter.acquire(25, GO)
            with lock:
                entries.append((reservation.at, reservation.tokens))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entries) == 160
    assert worst_minute(entries) == (30, 750)


def test_the_whole_limit_can_be_used_at_once_and_again_after_a_minute() -> None:
    clock = VirtualClock()
    limiter = RateLimiter(10, None, clock)
    times = []
    for _ in range(25):
        limiter.acquire(1, GO)
        times.append(clock.now)
    assert times == [0.0] * 10 + [60.0] * 10 + [120.0] * 5


def test_a_request_larger_than_the_limit_goes_alone() -> None:
    clock = VirtualClock()
    limiter = RateLimiter(None, 100, clock)
    limiter.acquire(50, GO)
    limiter.acquire(5000, GO)
    assert clock.now == 60
    limiter.acquire(1, GO)
    assert clock.now == 120


def test_estimates_are_settled() -> None:
    clock = VirtualClock()
    limiter = RateLimiter(None, 1000, clock)
    first = limiter.acquire(900, GO)
    limiter.reconcile(first, 100)
    limiter.acquire(900, GO)
    assert clock.now == 0
    limiter.acquire(1, GO)
    assert clock.now == 60
    limiter.reconcile(first, 10**6)  # long gone: changes nothing
    limiter.acquire(999, GO)
    assert clock.now == 60


def test_a_stop_ends_the_wait() -> None:
    stop = threading.Event()

    class Stopping(VirtualClock):
        def wait(self, seconds: float, stop: threading.Event) -> None:
            stop.set()

    limiter = RateLimiter(1, None, Stopping())
    assert limiter.acquire(1, stop)
    assert limiter.acquire(1, stop) is None


def test_a_hold_holds_everybody() -> None:
    clock = VirtualClock()
    limiter = RateLimiter(None, None, clock)
    limiter.pause(30)
    limiter.pause(10)
    limiter.acquire(1, GO)
    assert clock.now == 30


def headers(limit: int, remaining: int, reset: str, what: str = "requests") -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": str(limit),
        f"X-RateLimit-Remaining-{what.title()}": str(remaining),
        f"x-ratelimit-reset-{what}": reset,
    }


def test_headers_set_a_limit_where_none_is_configured() -> None:
    clock = VirtualClock()
    limiter = RateLimiter(None, None, clock)
    limiter.update_from_headers(headers(5, 5, "0s"))
    for _ in range(6):
        limiter.acquire(1, GO)
    assert clock.now == pytest.approx(60)


def test_headers_tighten_a_configured_limit_and_never_loosen_it() -> None:
    clock = VirtualClock()
    tightened = RateLimiter(100, None, clock)
    tightened.update_from_headers(headers(2, 2, "0s"))
    for _ in range(3):
        tightened.acquire(1, GO)
    assert clock.now == pytest.approx(60)
    clock = VirtualClock()
    kept = RateLimiter(2, None, clock)
    kept.update_from_headers(headers(1000, 1000, "0s"))
    for _ in range(3):
        kept.acquire(1, GO)
    assert clock.now == pytest.approx(60)


def test_what_is_left_is_spent_and_then_waited_for_as_it_refills() -> None:
    clock = VirtualClock()
    limiter = RateLimiter(None, None, clock)
    limiter.update_from_headers(headers(60, 2, "58s"))  # 58 are missing and come back in 58 seconds: one a second
    times = []
    for _ in range(4):
        limiter.acquire(1, GO)
        times.append(clock.now)
    assert times == pytest.approx([0, 0, 1, 2])
    limiter = RateLimiter(None, None, clock := VirtualClock())
    limiter.update_from_headers(headers(6000, 0, "1m0s", "tokens"))
    limiter.acquire(500, GO)
    assert clock.now == pytest.approx(5)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(headers(1, 1, "1s") | headers(1, 1, "1s", "tokens"))), st.text(max_size=8))
)
def test_nonsense_in_headers_is_ignored_and_never_raises(nonsense) -> None:
    clock = VirtualClock()
    limiter = RateLimiter(None, None, clock)
    limiter.update_from_headers(nonsense)
    assert limiter.acquire(1, GO)


@pytest.mark.parametrize(
    "text, seconds",
    [("1s", 1), ("6m0s", 360), ("120ms", 0.12), ("1h2m3.5s", 3723.5), ("7", 7), ("2.5", 2.5), ("1d", 86400)]
    + [(bad, None) for bad in ("", "soon", "-1", "1x", "s", "1s later", "nan", "inf", "²")],
)
def test_durations(text, seconds) -> None:
    assert parse_duration(text) == seconds
