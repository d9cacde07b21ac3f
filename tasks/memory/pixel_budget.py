"""How many bytes of decoded pixels are in memory at once, over all the threads of a process that decode shards."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

from sightflow.schemas.failure import SightflowError
from sightflow.tasks.memory.limit import in_gib

_logger = logging.getLogger(__name__)

_TOLD_AFTER_SECONDS: Final = 60.0
_STALLED_SECONDS: Final = 3600.0  # without a byte let go in the whole process


class NeverFits(Exception):
    """One item needs more than all that there is."""


class NoRoom(SightflowError):
    """There was no room in an hour in which nothing was let go."""


class PixelMemory:
    """What the decoded pixels of a process take, over the budgets of the shards that are being read."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.budgets: set[PixelBudget] = set()
        self.waiting: deque[tuple[PixelBudget, int]] = deque()
        self.releases = 0

    @property
    def used(self) -> int:
        return sum(budget.used for budget in self.budgets)

    @property
    def is_stuck(self) -> bool:
        """Whether the first that waits has no room, and no group is at a model, which would make some."""
        return bool(self.waiting) and not self.has_room(*self.waiting[0]) and not any(b.is_lent for b in self.budgets)

    def has_room(self, budget: PixelBudget, size: int) -> bool:
        return self.used + size <= budget.limit


PROCESS: Final = PixelMemory()
"""Of this process."""


class PixelBudget:
    """A shard's part of the memory of a process, of which all its shards together take `limit` bytes at most.

    The items of a shard come in by their place, and its reader takes them in that order; shards take turns. So nothing
    is shut out, and no two of them wait for each other: a shard holds what is at a model, what is being decoded, and
    decoded items that its reader collects; a reader whose next item has no room gives away what it has collected as
    soon as no model is at work (`wait_until_decoded`).
    """

    def __init__(self, limit: int, memory: PixelMemory = PROCESS) -> None:
        self.limit, self.is_lent = limit, False
        self._memory, self._changed = memory, memory.changed
        self._sizes: dict[int, int] = {}
        self._passed: set[int] = set()
        self._next = 0
        self._is_closed = False

    def __enter__(self) -> Self:
        with self._changed:
            self._memory.budgets.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held any more."""
        self.close()
        with self._changed:
            self._memory.budgets.discard(self)
            self._changed.notify_all()

    @property
    def used(self) -> int:
        return sum(self._sizes.values())

    @property
    def share(self) -> int:
        """The bytes that each of the shards may hold that are being read now."""
        return self.limit // max(len(self._memory.budgets), 1)

    def reserve(self, place: int, size: int) -> None:
        """Wait until the items before this one have come in, and `size` bytes are free; once for an item.

        Raises NeverFits if there are not so many in all, CancelledError if nobody reads on, and NoRoom if for an hour
        nothing in this process was let go. What it waits for is logged once a minute.
        """
        with self._changed:
            if place in self._sizes:
                return
            if size > self.limit:
                taken, left = in_gib(size), in_gib(self.limit)
                raise NeverFits(
                    f"decoding it takes {taken}, and policy.memory leaves {left} for pixels; raise it, and replay"
                )
            self._wait_for(lambda: self._next >= place, size)
            ticket = (self, size)
            self._memory.waiting.append(ticket)
            try:
                self._wait_for(lambda: self._memory.waiting[0] is ticket and self._memory.has_room(*ticket), size)
                self._sizes[place] = size
                self._pass(place)
            finally:
                self._memory.waiting.remove(ticket)
                self._changed.notify_all()

    def _wait_for(self, is_met: Callable[[], bool], size: int) -> None:
        releases, since = self._memory.releases, time.monotonic()
        self._changed.notify_all()  # the reader looks whether what it waits for has room
        while not self._changed.wait_for(lambda: self._is_closed or is_met(), _TOLD_AFTER_SECONDS):
            if self._memory.releases != releases:
                releases, since = self._memory.releases, time.monotonic()
            elif time.monotonic() - since > _STALLED_SECONDS:
                raise NoRoom(f"no room for {in_gib(size)} of pixels in {_STALLED_SECONDS:.0f} s; is the model at work?")
            _logger.warning(
                "an image or video waits for %s of memory: %d shards hold %s of the %s that policy.memory leaves for "
                "pixels, until their model has answered",
                *(in_gib(size), len(self._memory.budgets), in_gib(self._memory.used), in_gib(self.limit)),
            )
        if self._is_closed:
            raise CancelledError

    def would_wait(self, size: int) -> bool:
        """Whether `reserve` would wait for room, were it the turn of the item."""
        with self._changed:
            return bool(self._memory.waiting) or not self._memory.has_room(self, size)

    def settle(self, place: int, size: int) -> None:
        """The item has been decoded, or could not be: so many bytes are held from now on, never more than before."""
        with self._changed:
            self._sizes[place] = size
            self._pass(place)

    def release(self, place: int) -> None:
        """The item is no longer used."""
        with self._changed:
            self._sizes.pop(place, None)
            self._memory.releases += 1
            self._changed.notify_all()

    def wait_until_decoded(self, decoding: Future[Any], is_holding: bool) -> bool:
        """Wait until an item, the next that the reader of the shard takes, has been decoded; return True then.

        False: it has no room, no model is at work that would make some, and the reader holds others (`is_holding`),
        which it has to give away.
        """
        decoding.add_done_callback(self._wake)
        with self._changed:
            self._changed.wait_for(lambda: decoding.done() or (is_holding and self._is_stuck))
            return decoding.done()

    def held(self, place: int) -> int:
        """The bytes that an item holds."""
        with self._changed:
            return self._sizes.get(place, 0)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Within, what the reader has collected is at the model."""
        self._set_lent(True)
        try:
            yield
        finally:
            self._set_lent(False)

    def close(self) -> None:
        """Nobody reads on: who waits is told so."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _set_lent(self, is_lent: bool) -> None:
        with self._changed:
            self.is_lent = is_lent
            self._changed.notify_all()

    def _wake(self, decoded: Future[Any]) -> None:
        with self._changed:
            self._changed.notify_all()

    @property
    def _is_stuck(self) -> bool:
        return self._memory.is_stuck and any(budget is self for budget, _ in self._memory.waiting)

    def _pass(self, place: int) -> None:
        self._passed.add(place)
        while self._next in self._passed:
            self._passed.remove(self._next)
            self._next += 1
        self._memory.releases += 1
        self._changed.notify_all()
