"""Time that passes only when somebody waits for it."""

from __future__ import annotations

import threading

from sightflow.blocks.models.engines.providers.rate_limits import Clock

EPOCH = 1_800_000_000.0


class VirtualClock(Clock):
    """Waiting moves the clock on at once; `waits` keeps every wait, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        return self.now

    def epoch(self) -> float:
        return EPOCH + self.now

    def wait(self, seconds: float, stop: threading.Event) -> None:
        with self._lock:
            self.now += max(seconds, 0.0)
            self.waits.append(seconds)
