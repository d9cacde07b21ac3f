"""How many bytes of decoded images are in memory at once, over all the threads of a process that decode shards."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError


class PixelMemory:
    """The bytes that the images of a process may take, shared by the budgets of the shards that are being read."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.changed = threading.Condition()
        self.budgets: set[PixelBudget] = set()
        self.exceeded_by: tuple[PixelBudget, int] | None = None

    @property
    def used(self) -> int:
        return sum(budget.used for budget in self.budgets)


class PixelBudget:
    """A shard's part of the memory. Images come in by their place in the shard, so that none that is waited for is shut
    out.

    The image that the reader of the shard waits for is let in whatever is in memory, one in the process at a time; so
    is one that is alone. More than the limit is therefore taken by one image that is being decoded, and by what the
    readers hold of those before it.
    """

    def __init__(self, memory: PixelMemory) -> None:
        self._memory = memory
        self._changed = memory.changed
        self._sizes: dict[int, int] = {}
        self._passed: set[int] = set()
        self._next = 0
        self._awaited = -1
        with self._changed:
            memory.budgets.add(self)

    @property
    def used(self) -> int:
        return sum(self._sizes.values())

    @property
    def share(self) -> int:
        """The bytes that each of the shards may hold that are being read now."""
        return self._memory.limit // max(len(self._memory.budgets), 1)

    def reserve(self, place: int, size: int) -> None:
        """Wait until the images before this one have come in, and `size` bytes are free; once for an image.

        Raises CancelledError if nobody reads on.
        """
        with self._changed:
            if place in self._sizes:
                return
            self._changed.wait_for(
                lambda: self._is_closed or (self._next >= place and (self._has_room(size) or self._may_exceed(place)))
            )
            if self._is_closed:
                raise CancelledError
            if not self._has_room(size):
                self._memory.exceeded_by = (self, place)
            self._sizes[place] = size
            self._pass(place)

    def settle(self, place: int, size: int) -> None:
        """The image has been decoded, or could not be: so many bytes are held from now on."""
        with self._changed:
            if self._memory.exceeded_by == (self, place):
                self._memory.exceeded_by = None
            self._sizes[place] = size
            self._pass(place)

    def release(self, place: int) -> None:
        """The image is no longer used."""
        with self._changed:
            self._sizes.pop(place, None)
            self._changed.notify_all()

    def awaits(self, place: int) -> None:
        """The reader of the shard waits for this image, and has given back what it can."""
        with self._changed:
            self._awaited = place
            self._changed.notify_all()

    def held(self, place: int) -> int:
        """The bytes that an image holds."""
        with self._changed:
            return self._sizes.get(place, 0)

    def close(self) -> None:
        """Nobody reads on: who waits is told so."""
        with self._changed:
            self._memory.budgets.discard(self)
            self._changed.notify_all()

    @property
    def _is_closed(self) -> bool:
        return self not in self._memory.budgets

    def _has_room(self, size: int) -> bool:
        used = self._memory.used
        return not used or used + size <= self._memory.limit

    def _may_exceed(self, place: int) -> bool:
        return place == self._awaited and self._memory.exceeded_by is None

    def _pass(self, place: int) -> None:
        self._passed.add(place)
        while self._next in self._passed:
            self._passed.remove(self._next)
            self._next += 1
        self._changed.notify_all()
