"""What batches hold of a budget: a block of the ledger each, which belongs to no process and no machine's journal."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

from sightflow.blocks.money.balance import OF_A_BATCH, PER_DOLLAR, Balance, Block, Room, caps, dollars, room
from sightflow.blocks.money.ledger import Change, Ledger
from sightflow.schemas.failure import BudgetMet, RequestTooExpensive
from sightflow.schemas.policy import Budget


def nanodollars(usd: float) -> int:
    """What a request may cost at most, as the ledger holds it."""
    return math.ceil(usd * PER_DOLLAR)


class BatchHolds:
    """Reserves what the requests of a batch may cost at most, and settles what they have cost, by the batch's id.

    Every method raises StoreError if the ledger cannot be read or written.
    """

    def __init__(self, ledger: Ledger, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._ledger, self._now = ledger, now

    def room(self, budget: Budget, run: str) -> Room:
        """What a run may still reserve."""
        return room(self._ledger.balance(), budget, run, self._now())

    def check(self, budget: Budget, run: str, amount: int) -> None:
        """Raise RequestTooExpensive for nanodollars that no budget of this size ever allows."""
        for scope, cap, _ in caps(budget, run, self._now()):
            if amount > cap:
                raise RequestTooExpensive(
                    f"it may cost {dollars(amount)} in a batch, which is more than policy.budget.{scope}, "
                    f"{dollars(cap)}; raise that, or lower max_new_tokens"
                )

    def reserve(self, batch_id: str, holder: str, budget: Budget, run: str, amount: int) -> None:
        """Hold so many nanodollars for a batch; nothing if it holds them already. Raises BudgetMet if the budget does
        not allow it now: then it holds nothing.
        """
        met: BudgetMet | None = None

        def decide(balance: Balance) -> Change | None:
            nonlocal met
            met, moment = None, self._now()
            if _name(batch_id) in balance.blocks:
                return None
            left = room(balance, budget, run, moment)
            if left.left < amount:
                met = BudgetMet(left.met)
                return None
            block = Block(run=run, day=f"{moment:%Y-%m-%d}", holder=holder, reserved=amount)
            return "reserve", _name(batch_id), block, True

        self._ledger.change(decide, fresh=True)
        if met is not None:
            raise met

    def settle(self, batch_id: str, usd: float = 0.0, unknown: int = 0) -> None:
        """Count what a batch has cost, US dollars, and nanodollars of which nobody knows whether they were charged; the
        rest is given back. Nothing if that was done before, or if the batch never held anything.
        """
        self._close(batch_id, lambda block: (round(usd * PER_DOLLAR), unknown))

    def settle_as_unknown(self, batch_id: str) -> None:
        """Count all that a batch holds: nobody knows what it has cost."""
        self._close(batch_id, lambda block: (block.known, block.unknown + block.reserved))

    def _close(self, batch_id: str, spent: Callable[[Block], tuple[int, int]]) -> None:
        def decide(balance: Balance) -> Change | None:
            if (before := balance.blocks.get(_name(batch_id))) is None:
                return None
            known, unknown = spent(before)
            settled = before.model_copy(update={"known": known, "unknown": unknown, "reserved": 0})
            return "settle", _name(batch_id), settled, False

        self._ledger.change(decide, fresh=True)

    def held(self) -> set[str]:
        """The ids of the batches that hold anything."""
        return {name.removeprefix(OF_A_BATCH) for name in self._ledger.balance().blocks if name.startswith(OF_A_BATCH)}


def _name(batch_id: str) -> str:
    return f"{OF_A_BATCH}{batch_id}"
