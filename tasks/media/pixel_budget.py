"""How many bytes of decoded images are in memory at once, over the threads that decode a shard."""

from __future__ import annotations

import threading


class PixelBudget:
    """A semaphore in bytes. Images come in by their place in the shard, so that none that is waited for is shut out.

    The image that the reader of the shard waits for is let in whatever is in memory; so is one that is alone. More than
    `limit` bytes are therefore held by one image at most.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._changed = threading.Condition()
        self._sizes: dict[int, int] = {}
        self._passed: set[int] = set()
        self._next = 0
        self._awaited = -1
        self._closed = False

    def reserve(self, place: int, size: int) -> None:
        """Wait until the images before this one have come in, and `size` bytes are free."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._next >= place and self._fits(place, size)))
            self._sizes[place] = size
            self._pass(place)

    def settle(self, place: int, size: int) -> None:
        """The image has been decoded, or could not be: so many bytes are held from now on."""
        with self._changed:
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
        """Nobody reads on: who waits goes on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, place: int, size: int) -> bool:
        used = sum(self._sizes.values())
        return not used or used + size <= self.limit or place == self._awaited

    def _pass(self, place: int) -> None:
        self._passed.add(place)
        while self._next in self._passed:
            self._passed.remove(self._next)
            self._next += 1
        self._changed.notify_all()
