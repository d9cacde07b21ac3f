"""A Prefect worker that keeps its models: runs are threads of one process, and a model is loaded once for all of them.

Runs that a worker leaves behind when it dies are given back by the next one, whichever that is.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import anyio
import httpx
from anyio.abc import TaskStatus
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkerStatus
from prefect.exceptions import Abort, ObjectNotFound
from prefect.flow_engine import run_flow
from prefect.flows import Flow, load_flow_from_flow_run
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_WORKER_QUERY_SECONDS, temporary_settings
from prefect.states import AwaitingRetry, Cancelled, Crashed
from prefect.types._datetime import now
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult

from sightflow.schemas.run.report import RunReport
from sightflow.tasks.runtime.cancellation import STOP, RunStopped

POOL = "sightflow"
HEARTBEAT_SECONDS = 10
"""A worker that has been silent for three of them is gone."""
MOST_ATTEMPTS = 3
"""How often a run that takes its worker with it is begun; then it is Crashed, and the next reconcile finds its work."""
_WORKER_LABEL = "prefect.worker.name"
_UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_AWAY_SECONDS = 1.0
_REQUEST_SECONDS = 15.0
_NAMELESS = timedelta(seconds=60)


class ModelWorker(BaseWorker[BaseJobConfiguration, BaseVariables, BaseWorkerResult]):
    """Takes runs of a work pool of type `sightflow` and runs them here, at most `limit` at once.

    A Prefect server that is away for a while is waited for. `give_back` ends the runs here at their next shard.
    """

    type = "sightflow"
    job_configuration = BaseJobConfiguration
    job_configuration_variables = BaseVariables
    _description = "Run Sightflow in this process, with models that stay loaded from run to run."
    _display_name = "Sightflow"

    def __init__(self, work_pool_name: str = POOL, say: Callable[[str], None] = print, **settings: Any) -> None:
        # A name of its own for each process: the runs of a worker that is gone are told by its name.
        settings.setdefault("name", f"{socket.gethostname()} {os.getpid()}")
        settings.setdefault("heartbeat_interval_seconds", HEARTBEAT_SECONDS)
        super().__init__(work_pool_name, **settings)
        self._say = say
        self._stops: dict[UUID, threading.Event] = {}
        self._leaving = False
        self._threads = anyio.CapacityLimiter(self._limit or 64)
        self._seen_lost: set[UUID] = set()

    async def give_back(self) -> None:
        """Take no more runs; end those here after the shards they have begun, and wait for them."""
        self._leaving = True
        self._say("asked to stop; the shards in flight are finished first")
        for stop in self._stops.values():
            stop.set()
        while self._stops or self._submitting_flow_run_ids:
            await anyio.sleep(0.05)

    # --- one run --------------------------------------------------------------------------------

    async def run(
        self, flow_run: FlowRun, configuration: BaseJobConfiguration, task_status: TaskStatus[int] | None = None
    ) -> BaseWorkerResult:
        """Run it in a thread and see that it ends in a state, also if the server was away when it ended."""
        stop = self._stops[flow_run.id] = threading.Event()
        if self._leaving:
            stop.set()
        if task_status is not None:
            task_status.started(os.getpid())
        try:
            state = await self._attempt(flow_run, stop)
            if state is not None:
                await self._set(flow_run.id, state)
        finally:
            del self._stops[flow_run.id]
        return BaseWorkerResult(status_code=0, identifier=str(os.getpid()))

    async def _attempt(self, flow_run: FlowRun, stop: threading.Event) -> State[Any] | None:
        """Load and run the flow; return the state that it could not give itself, if any."""
        try:
            flow = await load_flow_from_flow_run(flow_run)
        except httpx.HTTPError as error:
            return self._again(flow_run, f"{type(error).__name__} before it began")
        except Exception as error:
            return Crashed(message=f"the flow cannot be loaded here: {type(error).__name__}: {error}")
        return await anyio.to_thread.run_sync(self._outcome, flow, flow_run, stop, limiter=self._threads)

    def _outcome(self, flow: Flow[Any, Any], flow_run: FlowRun, stop: threading.Event) -> State[Any] | None:
        token, began = STOP.set(stop), time.monotonic()
        try:
            state = run_flow(flow, flow_run=flow_run, return_type="state")
            assert isinstance(state, State)
            self._say(f"{flow_run.name}: {_ending(state)}, in {time.monotonic() - began:,.1f} s")
        except RunStopped:
            return AwaitingRetry(message="given back: its worker was asked to stop", scheduled_time=now("UTC"))
        except Abort:
            return None  # the server says that this run is not to be run
        except Exception as error:
            # The flow reports its own failures: this is Prefect that could not, most often for want of a server.
            begun = flow_run.model_copy(update={"run_count": flow_run.run_count + 1})
            return self._again(begun, f"{type(error).__name__} outside the flow")
        finally:
            STOP.reset(token)
        return None

    # --- the server, which may be away ----------------------------------------------------------

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """As every worker does, but none while leaving, and without an end while the server is away."""
        if self._leaving:
            return []
        try:
            await self._stop_cancelled_runs()
            return await super().get_and_submit_flow_runs()
        except httpx.HTTPError as error:
            if not _is_away(error):
                raise
            self._logger.warning("the Prefect server does not answer; it is asked again")
            return []

    async def _stop_cancelled_runs(self) -> None:
        """Ask those runs here to stop that somebody is cancelling."""
        if self._stops:
            own_runs = FlowRunFilter(id=FlowRunFilterId(any_=list(self._stops)), state=_in(StateType.CANCELLING))
            for run in await self.client.read_flow_runs(flow_run_filter=own_runs):
                if (stop := self._stops.get(run.id)) and not stop.is_set():
                    self._say(f"the run {run.name!r} is being cancelled; the shards it has begun are finished first")
                    stop.set()

    async def sync_with_backend(self) -> None:
        """As every worker does; then give back what dead workers of this pool have left."""
        try:
            await super().sync_with_backend()
            if self._work_pool is not None and not self._leaving:
                await self._give_back_lost_runs()
        except httpx.HTTPError as error:
            if not _is_away(error):
                raise

    async def _give_back_lost_runs(self) -> None:
        """Schedule anew the unfinished runs whose worker is gone; seen twice, for a server that was away itself."""
        unfinished = await self.client.read_flow_runs(
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self._work_pool_name])),
            flow_run_filter=FlowRunFilter(state=_in(*_UNFINISHED)),
        )
        workers = await self.client.read_workers_for_work_pool(self._work_pool_name)
        there = {worker.name for worker in workers if worker.status is WorkerStatus.ONLINE}
        lost = {run.id: run for run in unfinished if self._is_lost(run, there)}
        for run_id in self._seen_lost & lost.keys():
            await self._set(run_id, self._again(lost[run_id], f"its worker {_worker_of(lost[run_id])!r} is gone"))
        self._seen_lost = set(lost)

    def _is_lost(self, run: FlowRun, there: set[str]) -> bool:
        if run.id in self._stops or run.id in self._submitting_flow_run_ids:
            return False
        name = _worker_of(run)
        if name is None:  # its worker died, or will say its name in a moment
            return run.state is not None and run.state.timestamp < now("UTC") - _NAMELESS
        return name == self.name or name not in there

    def _again(self, run: FlowRun, why: str) -> State[Any]:
        """The state of a run that ended without one."""
        if run.state is not None and run.state.type is StateType.CANCELLING:
            return Cancelled(message=why)
        if run.run_count >= MOST_ATTEMPTS:
            return Crashed(message=f"{why}, at its attempt {run.run_count}: it is not begun again by itself")
        return AwaitingRetry(message=f"given back: {why}", scheduled_time=now("UTC"))

    async def _set(self, run_id: UUID, state: State[Any]) -> None:
        """Set the state of a run that has not ended, waiting for the server as long as it is away."""
        while True:
            try:
                run = await self.client.read_flow_run(run_id)
                if run.state is None or not run.state.is_final():
                    if run.state is not None and run.state.type is StateType.CANCELLING:
                        state = Cancelled(message="stopped; what it had begun is published")
                    await self.client.set_flow_run_state(run_id, state, force=True)
                return
            except ObjectNotFound:
                return
            except httpx.HTTPError as error:
                if not _is_away(error):
                    raise
            await anyio.sleep(_AWAY_SECONDS)


def _in(*states: StateType) -> FlowRunFilterState:
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))


def _ending(state: State[Any]) -> str:
    """How a run has ended, on one line: what it did, or what ended it."""
    try:
        done = state.result(raise_on_failure=False)
    except Exception:  # a result that Prefect does not have any more is only shown
        done = None
    said = done.summary if isinstance(done, RunReport) else str(done or state.message or "").partition("\n")[0]
    return f"{state.name}: {said}" if said else str(state.name)


def _worker_of(run: FlowRun) -> str | None:
    name = (run.labels or {}).get(_WORKER_LABEL)
    return None if name is None else str(name)


def _is_away(error: httpx.HTTPError) -> bool:
    """Whether this is about a server that does not answer, or not now."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, httpx.TransportError)


def run_worker(
    pool: str, poll_seconds: float, limit: int, say: Callable[[str], None], heartbeat_seconds: int = HEARTBEAT_SECONDS
) -> None:
    """Work until this process is asked to stop (SIGTERM, SIGINT); then give back what is not finished, and return.

    `say` is told in words what happens.
    """
    # A server that has just come back lets some requests hang; unanswered, they are sent again.
    settings = {PREFECT_WORKER_QUERY_SECONDS: poll_seconds, PREFECT_API_REQUEST_TIMEOUT: _REQUEST_SECONDS}
    with temporary_settings(settings):
        anyio.run(_work, ModelWorker(pool, say, limit=limit, heartbeat_interval_seconds=heartbeat_seconds))


async def _work(worker: ModelWorker) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as group:

            async def until_told() -> None:
                async for _ in signals:
                    await worker.give_back()
                    group.cancel_scope.cancel()

            group.start_soon(until_told)
            await worker.start(printer=lambda *_: None)
