"""Who counts what requests to providers cost, for the calls that are made under it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from sightflow.blocks.models.contract import Incomplete


class OverBudget(Incomplete):
    """The budget was met in the midst of a call."""


class Meter(Protocol):
    """Holds what each request may cost before it is sent, and settles what it did. For any number of threads."""

    def answered(self, key: str) -> Mapping[str, Any] | None:
        """An answer to this that was paid for and never published; given once. None: there is none."""

    def reserve(self, usd: float, stop: threading.Event) -> Any:
        """A hold of so many US dollars; None if `stop` was set before it could be had.

        Raises BudgetMet if the budget does not allow it now, RequestTooExpensive if it never does.
        """

    def settle(self, hold: Any, usd: float | None, key: str = "", answer: Mapping[str, Any] | None = None) -> None:
        """Say what a request has cost, US dollars, and what was answered; None: it was sent, and nobody knows."""


METER: ContextVar[Meter | None] = ContextVar("sightflow_meter", default=None)
"""Who counts what the calls that are made from here cost; unset, nobody."""
