"""How many threads of the CPU torch computes with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_CHOOSING = threading.Lock()
_chosen: int | None = None


def chosen_threads() -> int:
    """How many threads torch itself chose in this process: one for each core, or what OMP_NUM_THREADS says.

    Told once, before a model sets another number: a thread that first uses torch while one is set takes that one, and
    keeps it.
    """
    global _chosen
    import torch

    with _CHOOSING:
        if _chosen is None:
            _chosen = torch.get_num_threads()
        return _chosen


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Within, torch computes with `count` threads for the thread that calls it; None: with as many as it chose itself.

    Afterwards it is as before.
    """
    import torch

    chosen = chosen_threads()  # told before another number is set
    count = count or chosen
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
