"""The one committer of a run: lets shards begin, takes each as it is done, commits them in groups."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import polars as pl
from prefect.logging import get_run_logger

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.failure import Cause, SightflowError, Stage
from sightflow.schemas.run.plan import RunPlan, Shard
from sightflow.schemas.run.report import MaintenanceResult
from sightflow.schemas.run.timing import Span, timed
from sightflow.schemas.spec import Policy
from sightflow.tasks.maintain import upkeep
from sightflow.tasks.publish import publish
from sightflow.tasks.runtime.artifacts import ProgressArtifact
from sightflow.tasks.runtime.cancellation import RunStopped, ShardSkipped, is_asked_to_stop
from sightflow.tasks.runtime.metrics import measure, measure_span
from sightflow.tasks.runtime.shard_sizing import ShardSizer
from sightflow.tasks.validate import Validated

_MOST_LOST_SHARDS = 3
_MOST_UNCOMMITTED_SHARDS = 256  # rows without pixels; past that, shards wait for the catalog


class Progress(Protocol):
    """Is told how a run goes on; called from the publisher's thread."""

    def planned(self, work: RunPlan) -> None: ...
    def advanced(self, published: int, quarantined: int) -> None: ...


LISTENER: contextvars.ContextVar[Progress | None] = contextvars.ContextVar("sightflow_progress", default=None)
"""Who is told how the runs that are started from here go on; unset, nobody."""


class Publisher:
    """The one committer of a run: lets shards begin, takes each as it is done, commits them in groups.

    At most `policy.shards_ahead` shards are in flight at once for each of `worker_count` processes, which bounds the
    memory of a run. Commits have a thread of their own: no shard waits for the one before it to be written.
    """

    def __init__(self, catalog: Catalog, work: RunPlan, policy: Policy, worker_count: int = 1) -> None:
        self.catalog, self.policy, self.pace = catalog, policy, ShardSizer(worker_count)
        self._work = work
        self.published = 0
        self.commits = 0
        self.cost = 0.0
        self.causes: Counter[Cause] = Counter()
        self.spans: list[Span] = []
        self.began = self.ended = time.time()
        self.errors: list[BaseException] = []
        self.stopped_early = False
        self.upkeep: list[MaintenanceResult] = []
        self._looked_after = 0
        self._bar = ProgressArtifact(catalog.uri)
        self._listeners: list[Progress] = [self._bar]
        if listener := LISTENER.get():
            self._listeners.append(listener)
        self._cases = catalog.read(catalog.scan("quarantine").select("uri", "enrichment"))
        self._begun = 0
        self._done: queue.Queue[tuple[Shard, *tuple[Any, ...]] | None] = queue.Queue()
        self._validated: queue.Queue[Validated | None] = queue.Queue(_MOST_UNCOMMITTED_SHARDS)
        self._slots = threading.Semaphore(policy.shards_ahead * worker_count)
        self._stopped = threading.Event()
        self._threads = [self._started(self._take_all), self._started(self._commit_all)]

    @staticmethod
    def _started(work: Callable[[], None]) -> threading.Thread:
        """A thread that stays inside the flow run, so that what it does is part of it."""
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(work,), name="publisher", daemon=True)
        thread.start()
        return thread

    def throttled(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """Each shard, as soon as one more may be in flight; every one that is begun is to be handed to `add`.

        Raises what stopped the run, if anything has, and RunStopped if it was asked to stop.
        """
        for shard in shards:
            self._slots.acquire()
            if self.errors and self._stopped.is_set():
                raise self.errors[0]
            if is_asked_to_stop():
                self.stopped_early = True
                raise RunStopped
            yield shard

    def add(self, shard: Shard, *stages: Any) -> None:
        """Hand over the futures of one shard, in the order of its stages; the last one gives a `Validated`."""
        self._begun += 1
        stages[-1].add_done_callback(lambda _: self._done.put((shard, *stages)))

    def drain(self) -> None:
        """Take no more; wait for what is in flight and commit it."""
        self._stopped.set()
        self._done.put(None)
        for thread in self._threads:
            thread.join()
        self.ended = time.time()
        self._bar.end()

    # --- taking what is done ----------------------------------------------------------------------

    def _take_all(self) -> None:
        taken, begun = 0, None
        while begun is None or taken < begun:
            done = self._done.get()
            if done is None:
                begun = self._begun
            else:
                self._take(*done)
                taken += 1
        self._validated.put(None)

    def _take(self, shard: Shard, *stages: Any) -> None:
        """Take one shard; an error of its own costs that shard, one about the whole run stops the run."""
        try:
            validated = stages[-1].result()
            self.pace.record(shard)
            self._validated.put(validated)
        except BaseException as named:  # also what Prefect and a closed terminal end a thread with
            error = (isinstance(named, Exception) and _cause_of(stages)) or named
            if isinstance(error, ShardSkipped):
                self.stopped_early = True
                return
            self.errors.append(error)
            of_the_run = isinstance(error, SightflowError) or not isinstance(error, Exception)
            if of_the_run or len(self.errors) >= _MOST_LOST_SHARDS:
                self._stopped.set()
        finally:
            self._slots.release()

    # --- committing ---------------------------------------------------------------------------------

    def _commit_all(self) -> None:
        try:
            self._commit_groups()
        except BaseException as error:  # told where the run ends; nobody hears of what ends a thread
            self.errors.insert(0, error)
            self._stopped.set()
            while self._validated.get() is not None:
                pass

    def _commit_groups(self) -> None:
        self._tell(lambda listener: listener.planned(self._work))
        group: list[Validated] = []
        rows, due = 0, 0.0
        while True:
            try:
                shard = self._validated.get(timeout=max(due - time.monotonic(), 0) if group else None)
            except queue.Empty:
                shard = None
            else:
                if shard is None:
                    self._validated.put(None)  # for who empties the queue, should the last commit fail
                    break
                if not group:
                    # What is there first is published at once: it shows that the catalog takes it.
                    due = time.monotonic() + (self.policy.commit_seconds if self.commits else 0.0)
                group.append(shard)
                rows += shard.rows.height + shard.failed.height
            if rows >= self.policy.commit_rows or time.monotonic() >= due:
                self._commit(group)
                group, rows = [], 0
        if group:
            self._commit(group)

    def _commit(self, group: list[Validated]) -> None:
        rows = pl.concat([shard.rows for shard in group])
        failed = pl.concat([shard.failed for shard in group])
        try:
            with timed(self.spans, Stage.PUBLISH):
                self.commits += publish(self.catalog, rows, failed, self._cases)
        except Exception as error:
            self.errors.insert(0, error)
            self._stopped.set()
            return
        self.published += rows.height
        self.cost += sum(rows["cost_usd"]) + sum(failed["cost_usd"])
        self.causes.update(Cause(cause) for cause in failed["cause"])
        measure_span(self.catalog.uri, self.spans[-1])
        measure(self.catalog.uri, group)
        self.spans += [span for shard in group for span in shard.spans]
        self._tell(lambda listener: listener.advanced(rows.height, failed.height))
        # A long run makes thousands of commits, and each takes longer the more files there are.
        due = self.policy.upkeep.compact_files
        if due is not None and self.commits - self._looked_after >= due:
            self._looked_after = self.commits
            try:
                self.upkeep += upkeep(self.catalog, self.commits, self.policy)
            except Exception as error:
                self.errors.append(error)  # told when everything has been published

    def _tell(self, what: Callable[[Progress], None]) -> None:
        """Tell all who listen; one that fails costs the run nothing, and is told no more."""
        for listener in tuple(self._listeners):
            try:
                what(listener)
            except (Exception, SystemExit) as error:  # a bar whose terminal has gone would end the process
                self._listeners.remove(listener)
                with suppress(Exception, SystemExit):  # the same terminal may be the log's
                    get_run_logger().warning("%s is told no more: %s", type(listener).__name__, type(error).__name__)


def _cause_of(stages: tuple[Any, ...]) -> BaseException | None:
    """What the first stage that failed met, where the last one only names the stage before it."""
    try:
        for stage in stages:
            stage.wait()
            if stage.state.is_failed() or stage.state.is_crashed():
                stage.result()
    except BaseException as error:
        return error
    return None


@contextmanager
def publishing(catalog: Catalog, work: RunPlan, policy: Policy, worker_count: int = 1) -> Iterator[Publisher]:
    """Publish within this block; on leaving it, whatever the reason, what is in flight is finished and committed.

    `worker_count`: how many processes work on shards at once.

    Raises the first error that a shard or a commit met, after everything else has been published, and RunStopped if
    the run was asked to stop before it had done everything.
    """
    publisher = Publisher(catalog, work, policy, worker_count)
    try:
        yield publisher
    finally:
        publisher.drain()
    if publisher.errors:
        raise publisher.errors[0]
    if publisher.stopped_early:
        raise RunStopped
