"""What the ledger says at one moment: spent and reserved, by run, day and month. Amounts are whole nanodollars.

A billionth of a dollar is finer than the price of one token of any list, so that sums are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sightflow.schemas.policy import Budget

PER_DOLLAR = 10**9
_KEPT_DAYS, _KEPT_MONTHS, _KEPT_RUNS = 31, 24, 200
"""Of runs many: one that goes on may hold nothing for a while, in which uploads begin others by the minute."""
_LONGEST_OPEN = timedelta(days=70)
"""Whose day is longer ago, a block is nobody's: by then its day and its month have ended, and no journal is kept."""

OF_A_BATCH = "batch-"
"""How the names of blocks begin that a batch holds, which no process gives back before its results are there."""

Amount = Annotated[int, Field(ge=0, le=10**21)]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
Name = Annotated[str, Field(max_length=300)]


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Spent(_Stored):
    """Nanodollars: `known` by what answers said of their tokens; `unknown`, at most, for requests that were sent and
    never answered.
    """

    known: Amount = 0
    unknown: Amount = 0

    @property
    def total(self) -> int:
        return self.known + self.unknown

    def plus(self, known: int, unknown: int) -> Spent:
        return Spent(known=self.known + known, unknown=self.unknown + unknown)


class Block(_Stored):
    """Nanodollars that a process, or a batch, holds for one run. They count as spent until it, the journal of the
    process, or the results of the batch say otherwise.

    `day`: of the reservation, in UTC. `known`, `unknown`: what has been settled of it; `reserved`: what is left.
    """

    run: Name
    day: Day
    holder: Name
    known: Amount = 0
    unknown: Amount = 0
    reserved: Amount = 0


class Balance(_Stored):
    """Everything that counts, after one entry of the ledger. `blocks`: those that are open, by id.

    Of days, months and runs the latest are kept.
    """

    days: dict[Day, Spent] = Field(default_factory=dict)
    months: dict[str, Spent] = Field(default_factory=dict)
    runs: dict[Name, Spent] = Field(default_factory=dict)
    blocks: dict[Name, Block] = Field(default_factory=dict)

    def with_block(self, block_id: str, block: Block, is_open: bool = True) -> Balance:
        """The balance when a block has become this; what it has settled since goes to its run, day and month."""
        before = self.blocks.get(block_id, block.model_copy(update={"known": 0, "unknown": 0}))
        known, unknown = block.known - before.known, block.unknown - before.unknown
        blocks = {name: each for name, each in self.blocks.items() if name != block_id}
        if is_open:
            blocks[block_id] = block
        kept = {each.run for each in blocks.values()}
        balance = Balance(
            days=_settled(self.days, block.day, known, unknown, _KEPT_DAYS, {each.day for each in blocks.values()}),
            months=_settled(
                self.months, block.day[:7], known, unknown, _KEPT_MONTHS, {each.day[:7] for each in blocks.values()}
            ),
            runs=_settled(self.runs, block.run, known, unknown, _KEPT_RUNS, kept),
            blocks=blocks,
        )
        return balance._without_forgotten(block.day)

    def _without_forgotten(self, day: str) -> Balance:
        """The balance on a day, without the blocks of machines that vanished long ago: what they held was spent."""
        try:
            oldest = f"{date.fromisoformat(day) - _LONGEST_OPEN}"
        except (ValueError, OverflowError):
            return self
        forgotten = [each for each in self.blocks.values() if each.day < oldest]
        if not forgotten:
            return self
        days, months, runs = dict(self.days), dict(self.months), dict(self.runs)
        for each in forgotten:
            for spent, name in ((days, each.day), (months, each.day[:7]), (runs, each.run)):
                spent[name] = spent.get(name, Spent()).plus(0, each.reserved)
        blocks = {name: each for name, each in self.blocks.items() if each.day >= oldest}
        return Balance(days=days, months=months, runs=runs, blocks=blocks)

    @property
    def of_processes(self) -> dict[str, Block]:
        """The open blocks that processes hold, which give back soon what they do not need."""
        return {name: block for name, block in self.blocks.items() if not name.startswith(OF_A_BATCH)}

    def reserved(self, scope: str, name: str) -> int:
        """What open blocks hold of a `run`, a `day` or a `month`."""
        return sum(block.reserved for block in self.blocks.values() if _is_of(block, scope, name))

    def spent(self, scope: str, name: str) -> Spent:
        """What was settled of a `run`, a `day` or a `month`."""
        by_scope: Mapping[str, Mapping[str, Spent]] = {"run": self.runs, "day": self.days, "month": self.months}
        return by_scope[scope].get(name, Spent())

    def used(self, scope: str, name: str) -> int:
        """What counts against the budget of a `run`, a `day` or a `month`."""
        return self.spent(scope, name).total + self.reserved(scope, name)


@dataclass(frozen=True)
class Room:
    """What a budget has left in its tightest part: nanodollars; `scope`: run, day or month; None: there is no bound.

    `cap`, `used`: of that part. `until`: when that part begins anew.
    """

    left: int
    scope: str | None = None
    cap: int = 0
    used: int = 0
    until: datetime | None = None

    @property
    def met(self) -> str:
        """Why no more is allowed, and when it is."""
        again = f"it allows more from {self.until:%Y-%m-%d %H:%M} UTC" if self.until else "the next run has its own"
        return (
            f"the budget of the {self.scope} is met: {dollars(self.used)} of {dollars(self.cap)} are spent or held, "
            f"and the next request may cost more than is left; {again}, or raise policy.budget.{self.scope}"
        )


def room(balance: Balance, budget: Budget, run: str, moment: datetime) -> Room:
    """What a run may still reserve at a moment of UTC."""
    rooms = [
        Room(cap - balance.used(scope, name), scope, cap, balance.used(scope, name), _until(scope, moment))
        for scope, cap, name in caps(budget, run, moment)
    ]
    return min(rooms, key=lambda each: each.left, default=Room(10**21))


def caps(budget: Budget, run: str, moment: datetime) -> list[tuple[str, int, str]]:
    """The bounded parts of a budget: scope, nanodollars, and the run, day or month that it is now."""
    day = f"{moment:%Y-%m-%d}"
    named = (("run", budget.run, run), ("day", budget.day, day), ("month", budget.month, day[:7]))
    return [(scope, math.floor(cap * PER_DOLLAR), name) for scope, cap, name in named if cap is not None]


def dollars(amount: int) -> str:
    """Nanodollars in words, as exact as small prices need."""
    return f"${amount / PER_DOLLAR:,.2f}" if amount >= PER_DOLLAR else f"${amount / PER_DOLLAR:.4g}"


def _until(scope: str, moment: datetime) -> datetime | None:
    midnight = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    if scope == "day":
        return midnight + timedelta(days=1)
    if scope == "month":
        return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
    return None


def _is_of(block: Block, scope: str, name: str) -> bool:
    return (block.run if scope == "run" else block.day if scope == "day" else block.day[:7]) == name


def _settled(
    spent: Mapping[str, Spent], name: str, known: int, unknown: int, most: int, needed: set[str]
) -> dict[str, Spent]:
    """Amounts with one added to, which becomes the last; the oldest that nothing open needs are left out."""
    rest = {each: amount for each, amount in spent.items() if each != name}
    rest[name] = spent.get(name, Spent()).plus(known, unknown)
    old = [each for each in list(rest)[:-most] if each not in needed]
    return {each: amount for each, amount in rest.items() if each not in old}
