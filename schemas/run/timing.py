"""Where the time of a run went: when each stage was at work, and how long it had to wait."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

from pydantic import BaseModel

from sightflow.schemas.failure import Stage


@dataclass(frozen=True)
class Span:
    """A stretch of work of one stage in one `process`, in seconds since the epoch."""

    stage: Stage
    process: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


class StageTime(BaseModel):
    """Seconds in which a stage was at work, and in which it was not; over several processes added up.

    `busy` counts a moment once for each process, however many threads worked in it. Busy and waiting together are the
    length of the pipeline, from the first shard to the last commit, times the processes.
    """

    busy: float
    waiting: float

    @property
    def share(self) -> float:
        """The part of its time in which it was at work, 0 to 1."""
        return self.busy / (self.busy + self.waiting) if self.busy else 0.0


def process_name() -> str:
    """The name of this process, among all that work on a run."""
    return f"{socket.gethostname()}:{os.getpid()}"


@contextmanager
def timed(spans: list[Span], stage: Stage) -> Iterator[None]:
    """Add what happens within to `spans`, also if it fails."""
    start = time.time()
    try:
        yield
    finally:
        spans.append(Span(stage, process_name(), start, time.time()))


def stage_times(spans: Iterable[Span], length: float) -> dict[Stage, StageTime]:
    """What each stage of a pipeline of `length` seconds did with its time, in the order of the stages."""
    times: dict[Stage, StageTime] = {}
    for stage, of_stage in groupby(sorted(spans, key=_sort_key), key=lambda span: span.stage):
        busy_by_process = [
            _union_seconds(of_process) for _, of_process in groupby(of_stage, key=lambda span: span.process)
        ]
        busy = sum(busy_by_process)
        times[stage] = StageTime(busy=round(busy, 3), waiting=round(max(len(busy_by_process) * length - busy, 0.0), 3))
    return times


def _sort_key(span: Span) -> tuple[int, str, float]:
    return (list(Stage).index(span.stage), span.process, span.start)


def _union_seconds(spans: Iterable[Span]) -> float:
    """The seconds that spans cover, given in the order of their starts; where they overlap, once."""
    seconds, until = 0.0, float("-inf")
    for span in spans:
        seconds += max(span.end - max(span.start, until), 0.0)
        until = max(until, span.end)
    return seconds
