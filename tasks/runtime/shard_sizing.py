"""How large a shard should be, by how fast the ones before it got done."""

from __future__ import annotations

import time
from collections import deque

from sightflow.schemas.capability import MediaKind
from sightflow.schemas.run.plan import Shard

_SHARD_SECONDS = 5.0  # of work in a shard: what a killed run loses is a few times that
_LEAST_OBJECTS = 64  # enough for the batches of a slow model
_RECENT_SHARDS = 6


class ShardSizer:
    """Says how many objects the next shard of a model should hold: what one of `worker_count` does in five seconds.

    Every shard costs its orchestration whatever it holds, so a fast model is given more; a slow one loses little if
    the run is killed. `record` and `objects` may be called from two threads.
    """

    def __init__(self, worker_count: int = 1) -> None:
        self._worker_count = worker_count
        self._done: dict[tuple[str, MediaKind], deque[tuple[float, int]]] = {}

    def record(self, shard: Shard) -> None:
        """A shard is done."""
        latest = self._done.setdefault((shard.system, shard.media_kind), deque(maxlen=_RECENT_SHARDS))
        latest.append((time.monotonic(), len(shard.items)))

    def objects(self, system: str, kind: MediaKind) -> int:
        """Objects of a shard for this model and kind of media; 64 until two shards have been done."""
        done = list(self._done.get((system, kind), ()))
        if len(done) < 2:
            return _LEAST_OBJECTS
        seconds = max(done[-1][0] - done[0][0], 1e-3)
        speed = sum(objects for _, objects in done[1:]) / seconds / self._worker_count
        return max(_LEAST_OBJECTS, int(speed * _SHARD_SECONDS))
