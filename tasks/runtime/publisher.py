"""The one committer of a run: lets shards begin, takes each as it is done, commits them in groups."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import ContextVar, copy_context
from types import TracebackType
from typing import Any, Protocol, Self

import polars as pl
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger

from sightflow.blocks.catalog.appender import key_frame
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.run_writer import RunWriter
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import BudgetMet, Cause, SightflowError, Stage, is_about_this_machine
from sightflow.schemas.policy import Policy
from sightflow.schemas.run.plan import RunPlan, Shard
from sightflow.schemas.run.report import MaintenanceResult
from sightflow.schemas.run.timing import Span, timed
from sightflow.tasks.maintain import maintain
from sightflow.tasks.memory.admission import Admission
from sightflow.tasks.memory.limit import memory_budget
from sightflow.tasks.publish import publish
from sightflow.tasks.runtime.artifacts.examples import Examples
from sightflow.tasks.runtime.artifacts.progress_artifact import ProgressArtifact
from sightflow.tasks.runtime.bills import Bills
from sightflow.tasks.runtime.cancellation import HALT, RunStopped, ShardSkipped, is_asked_to_stop
from sightflow.tasks.runtime.metrics import record_metrics, record_stage_seconds
from sightflow.tasks.runtime.shard_sizing import ShardSizer
from sightflow.tasks.runtime.without_server import call_despite_lost_server, validated_answers
from sightflow.tasks.validate import Validated

_MOST_LOST_SHARDS = 3


class Progress(Protocol):
    """Is told how a run goes on; called from the publisher's thread."""

    def planned(self, run_plan: RunPlan) -> None: ...
    def advanced(self, published: int, quarantined: int) -> None: ...


LISTENER: ContextVar[Progress | None] = ContextVar("sightflow_progress", default=None)
"""Who is told how the runs that are started from here go on; unset, nobody."""


class Publisher:
    """Publishes within its `with` block; on leaving it, for any reason, what is in flight is finished and committed.

    At most `policy.shards_ahead` shards are in flight at once for each of `worker_count` processes, and no more bytes
    than these have room for (see `MemoryBudget`; `worker_memory` is what each may take, unset, what this one may).
    Commits have a thread of their own: no shard waits for the one before it to be written, unless rows take more memory
    than they are given.

    Leaving the block raises the first error that a shard or a commit met, RunStopped if the run was asked to stop
    before it had done everything, and BudgetMet if the budget did not allow everything; unless the block itself has
    raised. Of a system that has met the budget no shard is begun any more; the others go on.
    """

    def __init__(
        self,
        catalog: Catalog,
        run_plan: RunPlan,
        policy: Policy,
        worker_count: int = 1,
        worker_memory: int | None = None,
        run_id: str = "",
    ) -> None:
        fetched = memory_budget(policy, worker_memory).fetched
        self.catalog = catalog
        self.policy = policy.model_copy(update={"shard_bytes": min(policy.shard_bytes, max(fetched // 2, 1))})
        self.shard_sizer = ShardSizer(worker_count)
        self.published = 0
        self.submitted: Counter[str] = Counter()
        self.commits = 0
        self.cost_usd = 0.0
        self.bills = Bills()
        self.causes: Counter[Cause] = Counter()
        self.examples = Examples()
        self.done: Counter[str] = Counter()
        self.over_budget: dict[str, BudgetMet] = {}
        self.maintenance: list[MaintenanceResult] = []
        self.spans: list[Span] = []
        self.errors: list[BaseException] = []
        self.stopped_early = False
        self._run_plan, self._run_id = run_plan, run_id
        self._writer = RunWriter(catalog, run_plan.version)
        self._started_at = self._ended_at = time.time()
        self._commits_at_maintenance = 0
        self._progress_artifact = ProgressArtifact(catalog.uri)
        self._listeners: list[Progress] = [self._progress_artifact]
        if listener := LISTENER.get():
            self._listeners.append(listener)
        self._logger = get_run_logger() if FlowRunContext.get() else logging.getLogger(__name__)
        self._submitted = 0
        self._finished: queue.Queue[tuple[Shard, tuple[PrefectFuture[Any], ...]] | None] = queue.Queue()
        self._uncommitted: queue.Queue[Validated | None] = queue.Queue()
        self._fetched = Admission(fetched * worker_count, "a shard", "the model has answered those before it")
        self._rows = Admission(memory_budget(policy).rows, "a shard's rows", "those before them are committed")
        self._slots = threading.Semaphore(policy.shards_ahead * worker_count)
        self._stopped = threading.Event()
        self._halt = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._threads = [_start_thread(self._collect_shards), _start_thread(self._commit_until_drained)]
        self._halt_token = HALT.set(self._halt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._drain()
        HALT.reset(self._halt_token)
        if error is not None:
            return
        if self.errors:
            raise self.errors[0]
        if self.stopped_early:
            raise RunStopped
        for met in self.over_budget.values():
            raise met

    @property
    def elapsed_seconds(self) -> float:
        """From the first shard to the last commit."""
        return self._ended_at - self._started_at

    def throttled(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """Each shard, as soon as one more may be in flight; every one that is begun is to be handed to `publish`.

        Raises what stopped the run, if anything has, and RunStopped if it was asked to stop.
        """
        for shard in shards:
            if shard.system in self.over_budget:
                continue
            self._slots.acquire()
            self._fetched.acquire(_fetched_bytes(shard))
            if self.errors and self._stopped.is_set():
                raise self.errors[0]
            if is_asked_to_stop():
                self.stopped_early = True
                raise RunStopped
            if shard.system in self.over_budget:
                self._fetched.release(_fetched_bytes(shard))
                self._slots.release()
                continue
            yield shard

    def publish(self, shard: Shard, *stages: PrefectFuture[Any]) -> None:
        """Commit one shard once it is done: its futures, in the order of the stages; the last gives a `Validated`."""
        self._submitted += 1
        stages[-1].add_done_callback(lambda _: self._finished.put((shard, stages)))

    def _drain(self) -> None:
        """Take no more; wait for what is in flight and commit it."""
        self._stopped.set()
        self._finished.put(None)
        for thread in self._threads:
            thread.join()
        self._ended_at = time.time()
        self._progress_artifact.end()

    # --- taking what is done ----------------------------------------------------------------------

    def _collect_shards(self) -> None:
        collected, submitted = 0, None
        while submitted is None or collected < submitted:
            finished = self._finished.get()
            if finished is None:
                submitted = self._submitted
            else:
                self._collect(*finished)
                collected += 1
        self._uncommitted.put(None)

    def _collect(self, shard: Shard, stages: tuple[PrefectFuture[Any], ...]) -> None:
        try:
            validated = validated_answers(shard, stages, self._run_id)
            if validated.error is None:
                self.shard_sizer.record(shard)
            else:
                self._record_loss(shard, validated.error)
            self._rows.acquire(_row_bytes(validated))
            self._uncommitted.put(validated)
        except BaseException as raised:  # all of them: Prefect ends threads with what is no Exception; kept in `errors`
            self._record_loss(shard, (isinstance(raised, Exception) and _root_error(stages)) or raised)
        finally:
            self._fetched.release(_fetched_bytes(shard))
            self._slots.release()

    def _record_loss(self, shard: Shard, error: BaseException) -> None:
        """An error of its own costs a shard; one about the whole run, or the third of its own, stops the run."""
        if isinstance(error, ShardSkipped):
            self.stopped_early = True
            return
        if isinstance(error, BudgetMet):
            self.over_budget.setdefault(shard.system, error)
            return
        self.errors.append(error)
        if concerns_the_run(error) or len(self.errors) >= _MOST_LOST_SHARDS:
            self._stop(error)
        self._log(logging.ERROR, f"shard {shard.index} is lost, and the next plan holds what has no answer", error)

    def _stop(self, error: BaseException) -> None:
        """Begin no more shards; where it is the storage, a model or this machine that ends the run, ask nothing more in
        those in flight either: what they have been answered is published. Of a Prefect server that is gone they need
        nothing, and are finished.
        """
        self._stopped.set()
        if isinstance(error, SightflowError) or is_about_this_machine(error):
            self._halt.set()

    # --- committing ---------------------------------------------------------------------------------

    def _commit_until_drained(self) -> None:
        try:
            self._commit_groups()
        except BaseException as error:  # all of them: nobody hears of what ends a thread; raised at the end of the run
            self.errors.insert(0, error)
            self._stop(error)
            self._rows.lift()

    def _commit_groups(self) -> None:
        self._notify(lambda listener: listener.planned(self._run_plan))
        group: list[Validated] = []
        rows, due = 0, 0.0
        while True:
            try:
                shard = self._uncommitted.get(timeout=max(due - time.monotonic(), 0) if group else None)
            except queue.Empty:
                shard = None
            else:
                if shard is None:
                    break
                if not group:
                    # What is there first is published at once: it shows that the catalog takes it.
                    due = time.monotonic() + (self.policy.commit_seconds if self.commits else 0.0)
                group.append(shard)
                rows += shard.rows.height + shard.failed.height
            is_full = self._rows.is_half_full and self._uncommitted.empty()
            if rows >= self.policy.commit_rows or is_full or time.monotonic() >= due:
                self._commit(group)
                group, rows = [], 0
        if group:
            self._commit(group)

    def _commit(self, group: list[Validated]) -> None:
        rows = pl.concat([shard.rows for shard in group])
        failed = pl.concat([shard.failed for shard in group])
        replaced = key_frame(key for shard in group for key in shard.replaced)
        size = sum(map(_row_bytes, group))
        try:
            with timed(self.spans, Stage.PUBLISH):
                self.commits += call_despite_lost_server(publish, self._writer, rows, failed, replaced)
        except Exception as error:  # whatever it is, it is raised where the run ends; later groups are tried too
            self.errors.insert(0, error)
            self._stop(error)
            return
        finally:
            self._rows.release(size)
        submitted = sum((shard.submitted for shard in group), Counter[str]())
        self.published, self.submitted = self.published + rows.height, self.submitted + submitted
        self.examples.add(rows, failed)
        self.cost_usd += sum(rows["cost_usd"]) + sum(failed["cost_usd"])
        for shard in group:
            self.bills.add(shard.media_kind, shard.rows, shard.failed, shard.spans)
        self.done.update([*rows["enrichment"], *failed["enrichment"], *submitted.elements()])
        self.causes.update(Cause(cause) for cause in failed["cause"])
        record_stage_seconds(self.catalog.uri, self.spans[-1])
        record_metrics(self.catalog.uri, group)
        self.spans += [span for shard in group for span in shard.spans]
        self._notify(lambda listener: listener.advanced(rows.height + submitted.total(), failed.height))
        self._maintain_if_due()

    def _maintain_if_due(self) -> None:
        """Compact on the way: a long run makes thousands of commits, each slower the more files there are."""
        due = self.policy.upkeep.compact_files
        if due is None or self.commits - self._commits_at_maintenance < due:
            return
        self._commits_at_maintenance = self.commits
        try:
            self.maintenance += maintain(self.catalog, self.commits, self.policy)
        except Exception as error:  # whatever it is, it is raised when everything has been published
            self.errors.append(error)

    def _notify(self, call: Callable[[Progress], None]) -> None:
        """Tell all who listen; one that fails costs the run nothing, and is told no more."""
        for listener in tuple(self._listeners):
            try:
                call(listener)
            except (Exception, SystemExit) as error:  # a bar whose terminal has gone would end the process
                self._listeners.remove(listener)
                self._log(logging.WARNING, f"{type(listener).__name__} is told no more", error)

    def _log(self, level: int, message: str, error: BaseException) -> None:
        # What a SightflowError says is all there is to know; anything else may be a defect of ours.
        traceback = None if isinstance(error, SightflowError) else error
        with suppress(Exception, SystemExit):  # a log whose terminal has gone costs no row
            self._logger.log(level, "%s: %s: %s", message, type(error).__name__, error, exc_info=traceback)


def concerns_the_run(error: BaseException) -> bool:
    """Whether an error is about the whole run (keys, credit, a full disk, an end from outside) or about one shard."""
    return isinstance(error, SightflowError) or not isinstance(error, Exception) or is_about_this_machine(error)


def _start_thread(work: Callable[[], None]) -> threading.Thread:
    """A thread that stays inside the flow run, so that what it does is part of it."""
    thread = threading.Thread(target=copy_context().run, args=(work,), name="publisher", daemon=True)
    thread.start()
    return thread


def _fetched_bytes(shard: Shard) -> int:
    """What a shard holds in memory once it has been fetched: videos lie in files."""
    return 0 if shard.media_kind is MediaKind.VIDEO else sum(item.bytes for item in shard.items)


def _row_bytes(validated: Validated) -> int:
    return int(validated.rows.estimated_size() + validated.failed.estimated_size())


def _root_error(stages: tuple[PrefectFuture[Any], ...]) -> BaseException | None:
    """What the first stage that failed raised; the last one may only name the stage before it."""
    try:
        for stage in stages:
            stage.wait()
            if stage.state.is_failed() or stage.state.is_crashed():
                stage.result()
    except BaseException as error:  # all of them: it is what is looked for
        return error
    return None
