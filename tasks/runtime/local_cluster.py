"""Dask workers on this machine: one process for each GPU, which sees that one alone; or so many as are asked for."""

from __future__ import annotations

import logging
import os
from typing import Any

import dask
import psutil
from distributed import Nanny, Scheduler, SpecCluster

_THREADS = 4
"""Of a worker: one shard is in the model, another is decoded, others are fetched and validated."""


def local_workers(workers: int | None = None) -> SpecCluster:
    """A cluster on loopback that ends with its context; a worker that dies is started again.

    `workers`: processes; unset, one for each GPU, and without a GPU one for every two cores. Each offers `GPU: 1`,
    which without a GPU stands for its share of the cores.
    """
    gpus = _visible_gpus()
    count = workers or len(gpus) or max((os.cpu_count() or 2) // 2, 1)
    # Dask's profiler looks at the frames of all threads a hundred times a second. Before Python 3.11.9 that can lock
    # the interpreter for ever (python/cpython#106883): seen here, a worker that stood still in the midst of a run.
    dask.config.set({"distributed.worker.profile.enabled": False})
    # Workers that do not end within seconds are killed, which is no news.
    logging.getLogger("distributed.nanny").setLevel(logging.ERROR)
    cores = max((os.cpu_count() or 1) // count, 1)
    memory = psutil.virtual_memory().total // count

    def options(index: int) -> dict[str, Any]:
        environment = {"OMP_NUM_THREADS": str(cores), "OMP_WAIT_POLICY": "PASSIVE"}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
        return {
            "nthreads": _THREADS,
            "memory_limit": memory,
            "resources": {"GPU": 1},
            "env": environment,
            "host": "127.0.0.1",
            "dashboard": False,
            "silence_logs": logging.WARNING,
        }

    return SpecCluster(  # type: ignore[no-untyped-call]
        workers={index: {"cls": Nanny, "options": options(index)} for index in range(count)},
        scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard": False}},
        name="sightflow",
    )


def _visible_gpus() -> list[str]:
    """The names by which CUDA knows the GPUs that this process may use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
