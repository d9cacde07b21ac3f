"""A store that refuses some objects, told from one that refuses everything, which is about us and not about them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from sightflow.blocks.store.backend import ObjectVersion, Refused
from sightflow.schemas.failure import Failure, StoreRefusal

_SEVERAL = 3


class RefusalWatch:
    """What one store has given and refused, over all the calls that read from it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refused = 0  # objects, since the last that was read
        self._last_read: ObjectVersion | None = None

    def check(
        self,
        wanted: Sequence[ObjectVersion],
        results: Sequence[object],
        read_again: Callable[[ObjectVersion], object],
    ) -> None:
        """Take note of the results of one call. Raises StoreRefusal if the store gives us nothing any more: it has
        refused several objects and no others, and what was read last before them, if anything was, it refuses too.
        """
        read = [one for one, result in zip(wanted, results, strict=True) if not isinstance(result, Failure)]
        refused = [result for result in results if isinstance(result, Refused)]
        with self._lock:
            if read:
                self._last_read, self._refused = read[-1], 0
            elif len(refused) == len(results):
                self._refused += len(refused)
            if self._refused < _SEVERAL or not refused:
                return
            count, last_read = self._refused, self._last_read
        if last_read is None or isinstance(read_again(last_read), Refused):
            raise StoreRefusal(
                f"the store refuses all of the last {count} objects, {wanted[-1][0]} among them "
                f"({refused[-1].message}); check the keys and their rights; if only these are forbidden, leave them "
                "out of `source`"
            )
        with self._lock:
            self._refused = 0
