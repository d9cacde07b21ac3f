"""Where the stages of a shard run: in threads of this process, or on the workers of a Dask cluster."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL

from sightflow.blocks.extras import require
from sightflow.schemas.failure import SightflowError, SpecError
from sightflow.schemas.spec import RunnerSettings
from sightflow.tasks.memory.limit import memory_limit

_RESOURCE = "GPU"
_DEVICE_SHARE = 0.5  # of a device that a shard holds: one shard is in the model while the next is decoded


class NoWorkers(SightflowError):
    """A Dask cluster has no worker that could do anything."""


@dataclass(frozen=True)
class WorkerPool:
    """The processes that work on a run: how many, whether they offer the resource `GPU`, the bytes of memory that the
    smallest of them may take (None: as many as this one), and the client of their cluster.
    """

    worker_count: int = 1
    has_devices: bool = False
    memory: int | None = None
    client: Any = None

    def everywhere(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call a function in every process that works on the run."""
        if self.client is not None:
            self.client.run(call, *arguments)
        call(*arguments)

    def on_a_device(self) -> AbstractContextManager[Any]:
        """What is submitted within runs only where there is a device to hold."""
        if not self.has_devices:
            return nullcontext()
        from dask.base import annotate

        annotation: AbstractContextManager[Any] = annotate(resources={_RESOURCE: _DEVICE_SHARE})
        return annotation


@contextmanager
def task_runner(settings: RunnerSettings, needed: bool) -> Iterator[WorkerPool]:
    """Within, tasks that are submitted run as `settings` say; nothing is started unless it is `needed`.

    Raises NoWorkers if a cluster has no worker after `wait_seconds`, SpecError if it cannot be made as written.
    """
    context = FlowRunContext.get()
    if settings.kind == "threads" or not needed or context is None:
        yield WorkerPool()
        return
    if not PREFECT_API_URL.value():
        raise SpecError(
            "runner: dask needs a Prefect server that its workers can reach, and PREFECT_API_URL names none; "
            "`sightflow run` starts one by itself, elsewhere: prefect server start"
        )
    with _runner(settings) as runner:
        workers = _workers(runner, settings)
        with context.model_copy(update={"task_runner": runner}):
            yield workers


def _runner(settings: RunnerSettings) -> Any:
    require("distributed", "dask", "runner: dask")
    require("prefect_dask", "dask", "runner: dask")
    from prefect_dask.task_runners import DaskTaskRunner

    if settings.address:
        return DaskTaskRunner(address=settings.address)
    package = settings.cluster.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise SpecError(f"runner.cluster is {settings.cluster}, and {package} is not installed here")
    try:
        return DaskTaskRunner(cluster_class=settings.cluster, cluster_kwargs=settings.settings)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(f"runner.cluster: {settings.cluster} cannot be used: {error}") from None


def _workers(runner: Any, settings: RunnerSettings) -> WorkerPool:
    """The workers of the cluster, once it has one."""
    client = _connect(runner, settings)
    try:
        client.wait_for_workers(1, timeout=settings.wait_seconds)
    except TimeoutError:
        raise NoWorkers(
            f"the Dask cluster at {client.scheduler.address} has had no worker for {settings.wait_seconds:g} s; "
            "start one with: dask worker ADDRESS --nthreads 4 --resources GPU=1"
        ) from None
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    memory = min(client.run(memory_limit).values())
    return WorkerPool(len(workers), any(_RESOURCE in worker["resources"] for worker in workers), memory, client)


def _connect(runner: Any, settings: RunnerSettings) -> Any:
    """The client of the cluster, which is started or connected to now."""
    try:
        return runner.client
    except OSError as error:
        where = settings.address or settings.cluster
        raise NoWorkers(f"no Dask scheduler answers at {where}: {type(error).__name__}; check `runner`") from None
