"""Several batch generators over the same weights, so that several batches are computed at once on the CPU."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sightflow.blocks.models.contract import BatchGenerator


class Replicas:
    """Gives each thread that asks a generator of its own, for as long as it needs it."""

    def __init__(self, generators: Sequence[BatchGenerator]) -> None:
        self.count = len(generators)
        self._idle: queue.SimpleQueue[BatchGenerator] = queue.SimpleQueue()
        for generator in generators:
            self._idle.put(generator)

    @contextmanager
    def one(self) -> Iterator[BatchGenerator]:
        """A generator that nobody else uses meanwhile; waits for one."""
        generator = self._idle.get()
        try:
            yield generator
        finally:
            self._idle.put(generator)
