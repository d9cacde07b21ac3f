"""publish: commit validated rows to the catalog as shards finish; what is committed is never computed again."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from blocks.catalog import Catalog
from schemas.failure import Cause, SightflowError
from schemas.plan import Work
from schemas.report import Tended
from schemas.spec import Policy
from tasks.measure import measure, measure_publish
from tasks.show import ProgressArtifact
from tasks.stop import RunStopped, ShardGivenBack, is_asked_to_stop
from tasks.upkeep import upkeep
from tasks.validate import Validated

_MOST_LOST_SHARDS = 3


class Progress(Protocol):
    """Is told how a run goes on; called from the publisher's thread."""

    def planned(self, work: Work) -> None: ...
    def advanced(self, published: int, quarantined: int) -> None: ...


LISTENER: contextvars.ContextVar[Progress | None] = contextvars.ContextVar("sightflow_progress", default=None)
"""Who is told how the runs that are started from here go on; unset, nobody."""


@task(
    task_run_name="publish-{rows.height}-rows",
    retries=3,
    retry_delay_seconds=exponential_backoff(2),
    cache_policy=NO_CACHE,
    persist_result=False,
)
def publish(catalog: Catalog, rows: pl.DataFrame, failed: pl.DataFrame, cases: pl.DataFrame) -> int:
    """Commit one group: first the rows, then the failures, then the `cases` that the rows have settled.

    Each step is a merge by key, so running it again after a crash anywhere changes nothing. Returns how many
    commits were made. Raises StoreError if the storage fails for good.
    """
    commits = [catalog.publish(rows), catalog.quarantine(failed)]
    settled = cases.join(rows.select("uri", "enrichment"), on=["uri", "enrichment"], how="semi")
    resolved = catalog.resolve(settled)
    return sum(commit.version is not None for commit in commits) + bool(resolved)


class Publisher:
    """The one committer of a run: takes shards in flight, waits for them in order, commits them in groups.

    `add` blocks while `policy.shards_ahead` shards are in flight, which is what bounds the memory of a run.
    """

    def __init__(self, catalog: Catalog, policy: Policy) -> None:
        self.catalog, self.policy = catalog, policy
        self.published = 0
        self.commits = 0
        self.cost = 0.0
        self.causes: Counter[Cause] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.errors: list[BaseException] = []
        self.given_back = False
        self.upkeep: list[Tended] = []
        self._looked_after = 0
        self._listeners: list[Progress] = [ProgressArtifact(catalog.uri)]
        if listener := LISTENER.get():
            self._listeners.append(listener)
        self._cases = catalog.read(catalog.scan("quarantine").select("uri", "enrichment"))
        self._ready: list[Validated] = []
        self._in_flight: queue.Queue[tuple[Any, ...] | None] = queue.Queue()
        self._slots = threading.Semaphore(policy.shards_ahead)
        self._stopped = threading.Event()
        context = contextvars.copy_context()
        # The thread stays inside the flow run, so that its commits are task runs of it.
        self._thread = threading.Thread(target=context.run, args=(self._work,), name="publisher", daemon=True)
        self._thread.start()

    def add(self, *stages: Any) -> None:
        """Hand over the futures of one shard, in the order of its stages; the last one gives a `Validated`.

        Raises what stopped the run, if anything has.
        """
        self._slots.acquire()
        if self.errors and self._stopped.is_set():
            raise self.errors[0]
        self._in_flight.put(stages)
        if is_asked_to_stop():
            self.given_back = True  # what comes after this shard
            raise RunStopped

    def planned(self, work: Work) -> None:
        """Tell all who want to know what will be done."""
        for listener in self._listeners:
            listener.planned(work)

    def drain(self) -> None:
        """Take no more; wait for what is in flight and commit it."""
        self._stopped.set()
        self._in_flight.put(None)
        self._thread.join()

    def _work(self) -> None:
        oldest = time.monotonic()
        while True:
            wait = oldest + self.policy.commit_seconds - time.monotonic()
            try:
                stages = self._in_flight.get(timeout=max(wait, 0) if self._ready else None)
            except queue.Empty:
                self._commit()
                continue
            if stages is None:
                break
            if not self._ready:
                oldest = time.monotonic()
            self._take(stages)
            rows = sum(shard.rows.height + shard.failed.height for shard in self._ready)
            if rows >= self.policy.commit_rows or time.monotonic() - oldest >= self.policy.commit_seconds:
                self._commit()
        self._commit()

    def _take(self, stages: tuple[Any, ...]) -> None:
        """Wait for one shard; an error of its own costs that shard, one about the whole run stops the run."""
        try:
            *earlier, last = stages
            for stage in earlier:
                stage.wait()
                if stage.state.is_failed() or stage.state.is_crashed():
                    stage.result()  # raises the cause, where the last stage would only name the stage before it
            self._ready.append(last.result())
        except ShardGivenBack:
            self.given_back = True
        except Exception as error:
            self.errors.append(error)
            if isinstance(error, SightflowError) or len(self.errors) >= _MOST_LOST_SHARDS:
                self._stopped.set()
        finally:
            self._slots.release()

    def _commit(self) -> None:
        ready, self._ready = self._ready, []
        if not ready:
            return
        began = time.perf_counter()
        rows = pl.concat([shard.rows for shard in ready])
        failed = pl.concat([shard.failed for shard in ready])
        try:
            self.commits += publish(self.catalog, rows, failed, self._cases)
        except Exception as error:
            self.errors.insert(0, error)
            self._stopped.set()
            return
        self.published += rows.height
        self.cost += sum(rows["cost_usd"]) + sum(failed["cost_usd"])
        self.causes.update(Cause(cause) for cause in failed["cause"])
        for shard in ready:
            for stage, seconds in shard.seconds.items():
                self.seconds[stage] += seconds
        took = time.perf_counter() - began
        self.seconds["publish"] += took
        measure(self.catalog.uri, ready)
        measure_publish(self.catalog.uri, took)
        for listener in self._listeners:
            listener.advanced(rows.height, failed.height)
        # A long run makes thousands of commits, and each takes longer the more files there are.
        due = self.policy.upkeep.compact_files
        if due is not None and self.commits - self._looked_after >= due:
            self._looked_after = self.commits
            try:
                self.upkeep += upkeep(self.catalog, self.commits, self.policy)
            except Exception as error:
                self.errors.append(error)  # told when everything has been published


@contextmanager
def publishing(catalog: Catalog, work: Work, policy: Policy) -> Iterator[Publisher]:
    """Publish within this block; on leaving it, whatever the reason, what is in flight is finished and committed.

    Raises the first error that a shard or a commit met, after everything else has been published, and RunStopped if
    the run was asked to stop before it had done everything.
    """
    publisher = Publisher(catalog, policy)
    publisher.planned(work)
    try:
        yield publisher
    finally:
        publisher.drain()
    if publisher.errors:
        raise publisher.errors[0]
    if publisher.given_back:
        raise RunStopped
