"""Bytes that are held for a while, and how many of them at once."""

from __future__ import annotations

import logging
import threading
from typing import Final

from sightflow.tasks.memory.limit import in_gib

_logger = logging.getLogger(__name__)

_TOLD_AFTER_SECONDS: Final = 60.0


class Admission:
    """Lets bytes in while they are within `limit` together; more than that only alone, when nothing else is held.

    `what`, e.g. `a shard's rows`, and `until`, what has to happen for it, are logged once a minute while it waits. Who
    holds bytes needs no other bytes of the same admission to let them go: so nobody waits for ever.
    """

    def __init__(self, limit: int, what: str, until: str) -> None:
        self._limit, self._what, self._until = limit, what, until
        self._held = 0
        self._changed = threading.Condition()

    def acquire(self, size: int) -> None:
        """Wait until there is room for so many bytes."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._has_room(size), _TOLD_AFTER_SECONDS):
                held, limit = in_gib(self._held), in_gib(self._limit)
                _logger.warning(
                    "%s of %s waits until %s: %s are held, policy.memory leaves %s for it",
                    *(self._what, in_gib(size), self._until, held, limit),
                )
            self._held += size

    def release(self, size: int) -> None:
        """So many bytes are held no more."""
        with self._changed:
            self._held -= size
            self._changed.notify_all()

    def lift(self) -> None:
        """From now on everything is let in at once: nobody is there any more who would let anything go."""
        with self._changed:
            self._limit = 2**63
            self._changed.notify_all()

    @property
    def is_half_full(self) -> bool:
        """Whether half of what may be held is."""
        with self._changed:
            return 2 * self._held >= self._limit

    def _has_room(self, size: int) -> bool:
        return not self._held or self._held + size <= self._limit
