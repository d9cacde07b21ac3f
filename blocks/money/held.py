"""What a process holds of the ledger's money, as it knows it itself."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(eq=False)
class HeldBlock:
    """A block as its process knows it, in nanodollars. `total`: all that was ever granted of it.

    `is_frozen`: something of it is being given back, and nothing is taken of it.
    """

    id: str
    day: str
    total: int = 0
    known: int = 0
    unknown: int = 0
    under_way: int = 0
    is_frozen: bool = False

    @property
    def left(self) -> int:
        return 0 if self.is_frozen else self.total - self.known - self.unknown - self.under_way


@dataclass(frozen=True)
class Hold:
    """What is held for one request that is under way: nanodollars of one block."""

    number: int
    bound: int
    held: HeldBlock


class Pace:
    """How fast is spent: nanodollars a second, of late."""

    def __init__(self) -> None:
        self.spent, self.rate, self._at = 0, 0.0, time.monotonic()

    def measure(self) -> None:
        now = time.monotonic()
        if now - self._at >= 1.0:
            self.rate = 0.5 * self.rate + 0.5 * self.spent / (now - self._at)
            self.spent, self._at = 0, now
