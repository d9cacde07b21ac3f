"""Copies of a model over the same weights, so that several batches are computed at once on the CPU."""

from __future__ import annotations

import copy
import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

Model = TypeVar("Model")


class Replicas(Generic[Model]):
    """Gives each thread that asks a replica of its own, for as long as it needs it."""

    def __init__(self, replicas: Sequence[Model]) -> None:
        self.count = len(replicas)
        self._idle: queue.SimpleQueue[Model] = queue.SimpleQueue()
        for replica in replicas:
            self._idle.put(replica)

    @contextmanager
    def one(self) -> Iterator[Model]:
        """A replica that nobody else uses meanwhile; waits for one."""
        replica = self._idle.get()
        try:
            yield replica
        finally:
            self._idle.put(replica)


def same_weights(module: Any) -> Any:
    """A copy of a torch module that has its parameters and buffers in common with it, and nothing else.

    A module keeps state between the steps of a generation (Qwen2-VL the offset of its positions), which two threads
    cannot share.
    """
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})
