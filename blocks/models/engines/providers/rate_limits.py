"""Requests a minute and tokens a minute: kept from the configuration, tightened by what the provider says."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Mapping

MINUTE = 60.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Clock:
    """Time as it passes; tests put a virtual one in its place."""

    def monotonic(self) -> float:
        return time.monotonic()

    def epoch(self) -> float:
        """Seconds since 1970, for dates that a provider names."""
        return time.time()

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Sleep, or less if `stop` is set in the meantime."""
        stop.wait(seconds)


class Reservation:
    """What one request took from the limits at `at`, in monotonic seconds; `tokens` is an estimate until it is settled.

    `counts`: whether it is still among those of the last 60 seconds.
    """

    def __init__(self, at: float, tokens: int) -> None:
        self.at = at
        self.tokens = tokens
        self.counts = True


class RateLimiter:
    """Lets requests through so that no 60 seconds see more of them, or of their tokens, than allowed.

    One is shared by all the threads of a model. A limit of None is no limit, until a response header
    (`x-ratelimit-*`, as OpenAI sends them) names one. A request that is larger than the whole limit
    goes alone. What headers say is left is believed for `longest_wait` seconds, whatever reset they name.
    """

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        clock: Clock,
        longest_wait: float = 2 * MINUTE,
    ) -> None:
        self._requests = _Bucket(requests_per_minute, longest_wait)
        self._tokens = _Bucket(tokens_per_minute, longest_wait)
        self._clock = clock
        self._lock = threading.Lock()
        self._recent: deque[Reservation] = deque()
        self._recent_tokens = 0
        self._held_until = 0.0

    def acquire(self, tokens: int, stop: threading.Event) -> Reservation | None:
        """Wait for a turn of a request of about so many tokens; None if `stop` was set before it came."""
        while not stop.is_set():
            with self._lock:
                now = self._clock.monotonic()
                wait = self._wait(now, tokens)
                if wait <= 0:
                    reservation = Reservation(now, tokens)
                    self._recent.append(reservation)
                    self._recent_tokens += tokens
                    self._requests.take(1)
                    self._tokens.take(tokens)
                    return reservation
            self._clock.wait(wait, stop)
        return None

    def reconcile(self, reservation: Reservation, tokens: int) -> None:
        """Put the tokens that a request really took in the place of its estimate."""
        with self._lock:
            if reservation.counts:
                self._recent_tokens += tokens - reservation.tokens
                reservation.tokens = tokens

    def pause(self, seconds: float) -> None:
        """Let nothing through for so long: the provider said so to one request and means them all."""
        with self._lock:
            self._held_until = max(self._held_until, self._clock.monotonic() + seconds)

    def update_from_headers(self, headers: Mapping[str, str]) -> None:
        """Take over limits and what is left of them from a response's headers; nonsense is ignored."""
        lowered = {name.lower(): str(value) for name, value in headers.items()}
        with self._lock:
            now = self._clock.monotonic()
            for bucket, what in ((self._requests, "requests"), (self._tokens, "tokens")):
                bucket.update_from_headers(
                    _count(lowered.get(f"x-ratelimit-limit-{what}")),
                    _count(lowered.get(f"x-ratelimit-remaining-{what}")),
                    parse_duration(lowered.get(f"x-ratelimit-reset-{what}", "")),
                    now,
                )

    def _wait(self, now: float, tokens: int) -> float:
        """Seconds until a request of so many tokens may go; 0 or less: now."""
        while self._recent and self._recent[0].at + MINUTE <= now:
            gone = self._recent.popleft()
            gone.counts = False
            self._recent_tokens -= gone.tokens
        waits = [self._held_until - now, self._requests.wait(1, now), self._tokens.wait(tokens, now)]
        if self._requests.limit is not None and len(self._recent) >= self._requests.limit:
            oldest = self._recent[len(self._recent) - self._requests.limit]
            waits.append(oldest.at + MINUTE - now)
        if self._tokens.limit is not None:
            excess = self._recent_tokens + tokens - self._tokens.limit
            for reservation in self._recent:
                if excess <= 0:
                    break
                excess -= reservation.tokens
                waits.append(reservation.at + MINUTE - now)
        return max(waits)


class _Bucket:
    """One limit, and the provider's own count of what is left of it, refilled evenly until its reset."""

    def __init__(self, configured: int | None, longest_wait: float) -> None:
        self._configured, self._longest_wait = configured, longest_wait
        self._told_at = 0.0
        self.limit = configured
        self._left: float | None = None
        self._rate = 0.0
        self._at = 0.0

    def update_from_headers(self, limit: int | None, remaining: int | None, reset: float | None, now: float) -> None:
        if limit is not None and limit > 0:
            self.limit = limit if self._configured is None else min(limit, self._configured)
        if limit and remaining is not None and reset is not None:
            missing = max(limit - remaining, 0)
            self._left, self._at = float(remaining), now
            self._told_at, reset = now, min(reset, self._longest_wait)
            self._rate = missing / reset if missing and reset > 0 else float("inf")

    def wait(self, need: int, now: float) -> float:
        if self._left is None or now >= self._told_at + self._longest_wait:
            self._left = None
            return 0.0
        full = max(self._left, float(self.limit or 0))
        refilled = self._rate * (now - self._at) if now > self._at else 0.0
        self._left, self._at = min(full, self._left + refilled), now
        short = min(need, full) - self._left
        if short <= 1e-9:
            return 0.0
        return min(short / self._rate, self._told_at + self._longest_wait - now)

    def take(self, need: int) -> None:
        if self._left is not None:
            self._left = max(self._left - need, 0.0)


def parse_duration(text: str) -> float | None:
    """Seconds in `1m30.5s`, `120ms`, `6h` or a bare number of seconds; None if it is none of these."""
    text = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,12}", text.strip()) else None
