"""What one process may spend for one run: reserved from the ledger in blocks, handed out to requests in memory.

A block counts as spent from the moment it is reserved until its process, or that process's journal, gives back what was
not. So whatever dies, and whenever, what counts is never less than what was spent, by no clock and no lease.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sightflow.blocks.money.balance import PER_DOLLAR, Balance, Block, caps, dollars, room
from sightflow.blocks.money.held import HeldBlock, Hold, Pace
from sightflow.blocks.money.journal import Journal, LeftAnswers
from sightflow.blocks.money.ledger import Change, Ledger
from sightflow.blocks.money.recovery import recover
from sightflow.schemas.failure import BudgetMet, RequestTooExpensive, SightflowError, StoreError, StoreRefusal
from sightflow.schemas.policy import Budget

_logger = logging.getLogger(__name__)

_AHEAD_SECONDS = 15.0
"""Of spending at the present rate, for which is reserved at once."""
_POLL_SECONDS = 0.5
_IDLE_SECONDS = 2.0
"""Without a call under way, after which what is left of a block is given back."""
_PATIENCE_SECONDS = 5.0
"""In which the ledger has to move, for others to be waited for that hold what this process lacks."""
_DENIED_SECONDS = 10.0
_AT_ONCE = 8
"""Requests of the largest bound that a block is made for at least."""


class Allowance:
    """Reserves, for the requests of a process, what each may cost at most, and settles what it has cost.

    For any number of threads. `folder`: of the journals; `asks_anew`: whether answers of dead processes are of no use;
    `asks`: see `Journal`.
    `now` gives the moment, in UTC, by which days and months are told.
    """

    def __init__(
        self,
        ledger: Ledger,
        budget: Budget,
        run: str,
        folder: Path,
        asks_anew: bool = False,
        asks: str = "",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._ledger, self._budget, self._run, self._now = ledger, budget, run, now
        self._folder = folder
        self._journal = Journal(folder, run, asks_anew, asks)
        self._answers = LeftAnswers(folder, asks_anew, asks)
        self._changed = threading.Condition()
        self._block: HeldBlock | None = None
        self._draining: list[HeldBlock] = []
        self._blocks = self._requests = self._active = 0
        self._waiting: list[int] = []
        self._largest = self._low = 0
        self._due = self._is_short = self._closing = False
        self._error: SightflowError | None = None
        self._denied: tuple[int, float, BudgetMet] | None = None
        self._moved: tuple[Balance | None, float] = (None, time.monotonic())
        self._pace = Pace()
        self._idle_since = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name="ledger", daemon=True)
        self._thread.start()

    # --- what requests ask ------------------------------------------------------------------------

    def __enter__(self) -> Allowance:
        """Within, requests are made; what processes of this machine have left is settled first."""
        recover(self._ledger, self._folder)
        self._answers.look()
        with self._changed:
            self._active += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._active -= 1
            self._idle_since = time.monotonic()

    def is_wanted(self) -> None:
        """Say that it is about to be used, so that nobody closes it for being idle."""
        with self._changed:
            self._idle_since = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """For how long no call has been under way."""
        with self._changed:
            return 0.0 if self._active else time.monotonic() - self._idle_since

    def answered(self, key: str) -> dict[str, Any] | None:
        """What a process that has died was answered to this and has not published; given once."""
        return self._answers.take(key)

    def reserve(self, usd: float, stop: threading.Event) -> Hold | None:
        """Hold what a request may cost at most, US dollars; None if `stop` was set, or this closed, before it could
        be had.

        Raises BudgetMet if the budget does not allow it now, RequestTooExpensive if it never does, StoreError if the
        ledger or the journal cannot be written.
        """
        bound = math.ceil(usd * PER_DOLLAR)
        for scope, cap, _ in caps(self._budget, self._run, self._now()):
            if bound > cap:
                raise RequestTooExpensive(
                    f"it may cost {dollars(bound)}, which is more than policy.budget.{scope}, {dollars(cap)}; "
                    "raise that, or lower max_new_tokens"
                )
        hold = self._wait(bound, stop)
        if hold is not None:
            try:
                self._journal.sent(hold.number, hold.held.id, bound)
            except BaseException:
                self._give_back(hold, 0, 0)
                raise
        return hold

    def _wait(self, bound: int, stop: threading.Event) -> Hold | None:
        with self._changed:
            self._largest = max(self._largest, bound)
            self._waiting.append(bound)
            if self._current().left < bound:
                self._wake()
            try:
                while not (stop.is_set() or self._closing):
                    if self._error is not None:
                        raise self._error
                    block = self._current()
                    if block.left >= bound:
                        return self._take(block, bound)
                    if self._is_denied(bound):
                        assert self._denied is not None
                        raise BudgetMet(str(self._denied[2]))
                    self._changed.wait(_POLL_SECONDS)
                return None
            finally:
                self._waiting.remove(bound)

    def settle(self, hold: Hold, usd: float | None, key: str = "", answer: Mapping[str, Any] | None = None) -> None:
        """Settle what a request has cost, in US dollars; None: nobody knows, so that all that is held counts as spent.

        `answer`: what was paid for, to be kept until it has been published.
        """
        known, unknown = (0, hold.bound) if usd is None else (round(usd * PER_DOLLAR), 0)
        try:
            self._journal.settled(hold.number, known, unknown, key, answer)
        except StoreRefusal as error:  # this answer is kept, and no other request is sent
            with self._changed:
                self._error = self._error or error
        finally:
            self._give_back(hold, known, unknown)

    def _give_back(self, hold: Hold, known: int, unknown: int) -> None:
        with self._changed:
            hold.held.under_way -= hold.bound
            hold.held.known += known
            hold.held.unknown += unknown
            self._pace.spent += known + unknown
            self._changed.notify_all()

    def _current(self) -> HeldBlock:
        """The block of today."""
        day = f"{self._now():%Y-%m-%d}"
        if self._block is not None and self._block.day != day:
            self._draining.append(self._block)
            self._block = None
        if self._block is None:
            self._blocks += 1
            self._block = HeldBlock(f"{self._journal.id}-{self._blocks}", day)
        return self._block

    def _take(self, block: HeldBlock, bound: int) -> Hold:
        block.under_way += bound
        self._requests += 1
        if block.left < self._low:
            self._wake()
        return Hold(self._requests, bound, block)

    def _is_denied(self, bound: int) -> bool:
        return (
            self._denied is not None
            and bound >= self._denied[0]
            and time.monotonic() - self._denied[1] < _DENIED_SECONDS
        )

    def _wake(self) -> None:
        self._due = True
        self._changed.notify_all()

    def _ahead(self) -> int:
        """What is reserved beyond what is under way."""
        return int(self._pace.rate * _AHEAD_SECONDS) + _AT_ONCE * self._largest + 2 * sum(self._waiting)

    # --- the ledger ---------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Keep the ledger and what is held in step, until it is closed."""
        with suppress(StoreError):  # told where it is needed
            self._ledger.balance()
        while not self._closing:
            with self._changed:
                self._changed.wait_for(lambda: self._due or self._closing, _POLL_SECONDS)
                is_idle = not self._active and time.monotonic() - self._idle_since > _IDLE_SECONDS
                due = (self._due or is_idle or bool(self._draining) or bool(self._waiting)) and not self._closing
                self._due = False
            if due:
                try:
                    self._commit(is_idle)
                except Exception as error:  # whatever it is, who waits is told
                    with self._changed:
                        known = isinstance(error, SightflowError)
                        self._error = error if known else SightflowError(f"{type(error).__name__}: {error}")  # type: ignore[assignment]
                        self._changed.notify_all()
                    if not isinstance(error, SightflowError):
                        _logger.exception("the ledger cannot be kept")
                    return

    def _commit(self, is_idle: bool) -> None:
        with self._changed:
            draining, block = list(self._draining), self._block
            self._pace.measure()
            was_short = self._is_short
        for each in draining:
            self._commit_block(each, 0, gives_back=True)
        if block is None:
            return
        ahead = 0 if is_idle else self._ahead()
        balance = self._commit_block(block, ahead, gives_back=is_idle or was_short, fresh=was_short)
        with self._changed:
            needed = min(self._waiting, default=0)
            self._is_short = needed > block.left
            self._low = block.left // 2
            if not self._is_short:
                self._denied = None
            elif not was_short:
                self._due = True  # by what was known; what others have given back since is seen at the next look
            else:
                self._judge(block, balance, needed)
            self._changed.notify_all()

    def _judge(self, block: HeldBlock, balance: Balance, needed: int) -> None:
        """See whether who waits for what the budget does not have is to be denied."""
        if balance != self._moved[0]:
            self._moved = balance, time.monotonic()
        if block.under_way or any(each.under_way for each in self._draining):
            return  # what these do not need comes back
        others = any(each.reserved for name, each in balance.of_processes.items() if name != block.id)
        if others and time.monotonic() - self._moved[1] < _PATIENCE_SECONDS:
            return  # what others hold may come back
        self._denied = needed, time.monotonic(), BudgetMet(room(balance, self._budget, self._run, self._now()).met)

    def _commit_block(self, held: HeldBlock, ahead: int, gives_back: bool = False, fresh: bool = False) -> Balance:
        """Bring one block of the ledger up to what is known of it here, and reserve as far as the budget allows.

        `gives_back`: less may come to be reserved than is; else only more, so that requests go on meanwhile.
        """
        granted: Block | None = None
        is_decided = False

        def decide(balance: Balance) -> Change | None:
            nonlocal granted
            before = balance.blocks.get(held.id)
            with self._changed:
                known, unknown, under_way, total = held.known, held.unknown, held.under_way, held.total
                waiting = self._waiting if held is self._block else []
                needed, least = sum(waiting), min(waiting, default=0)
            if before is None and total:  # closed by who took this process for dead: all of it counts as spent
                granted = None
                return None
            before = before or Block(run=self._run, day=held.day, holder=_holder())
            settled = known + unknown - before.known - before.unknown
            moment = datetime.fromisoformat(held.day).replace(tzinfo=UTC)
            left = room(balance, self._budget, self._run, moment).left + before.reserved - settled
            fair = max(left // (2 * (len(balance.of_processes) or 1)), under_way + needed)
            reserved = min(under_way + ahead, left, fair)
            if gives_back and reserved - under_way < least:
                reserved = under_way  # it would be of no use here
            reserved = max(reserved, under_way, 0 if gives_back else before.reserved - settled)
            granted = before.model_copy(update={"known": known, "unknown": unknown, "reserved": reserved})
            if granted == before:
                return None
            return "reserve" if reserved > before.reserved - settled else "settle", held.id, granted, bool(reserved)

        with self._changed:
            held.is_frozen = gives_back
        try:
            balance = self._ledger.change(decide, fresh)
            is_decided = True
        finally:
            with self._changed:
                held.is_frozen = False
                if is_decided:  # else it is as the ledger has it, and is settled when this closes
                    held.total = granted.known + granted.unknown + granted.reserved if granted else 0
                if is_decided and not (granted and granted.reserved):  # it is closed
                    if self._block is held:
                        self._block = None
                    elif held in self._draining:
                        self._draining.remove(held)
        return balance

    def close(self, published: bool, everything: bool = False) -> None:
        """Settle all of it and give the rest back. `published`: no answer is needed any more; `everything`: nor are
        those that other processes have left. Raises StoreError; then the next process settles it by the journal.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        blocks = (*self._draining, *([self._block] if self._block else []))
        is_settled = False
        try:
            for held in blocks:
                self._commit_block(held, 0, gives_back=True)
            is_settled = not any(held.under_way for held in blocks)
        finally:
            if is_settled:
                self._journal.close(keep_answers=not published)
            else:
                self._journal.leave()
        if published and everything:
            self._answers.forget()


def _holder() -> str:
    return f"{socket.gethostname()} {os.getpid()}"[:300]
