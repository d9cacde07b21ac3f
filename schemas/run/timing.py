"""Where the time of a run went: when each stage was at work, how long it had to wait, and how long the start took."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby

from pydantic import BaseModel, Field

from sightflow.schemas.failure import Stage


class StartStep(StrEnum):
    """What is done before the first answers are there."""

    IMPORTS = "imports"  # of libraries
    SERVER = "server"  # a Prefect server of our own, until it answers
    LISTING = "listing"
    PLANNING = "planning"
    MODEL = "model"  # until it is loaded
    FIRST_BATCH = "first_batch"  # fetched, decoded and answered


@dataclass(frozen=True)
class Span:
    """A stretch of work of one stage, or one step of the start, in one `process`, in seconds since the epoch."""

    stage: Stage | StartStep
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
def timed(spans: list[Span], stage: Stage | StartStep) -> Iterator[None]:
    """Add what happens within to `spans`, also if it fails."""
    start = time.time()
    try:
        yield
    finally:
        spans.append(Span(stage, process_name(), start, time.time()))


def stage_times(spans: Sequence[Span], length: float) -> dict[Stage, StageTime]:
    """What each stage of a pipeline of `length` seconds did with its time, in the order of the stages."""
    times: dict[Stage, StageTime] = {}
    for stage in Stage:
        of_stage = sorted((span for span in spans if span.stage is stage), key=lambda span: (span.process, span.start))
        if not of_stage:
            continue
        busy_by_process = [
            _union_seconds(of_process) for _, of_process in groupby(of_stage, key=lambda span: span.process)
        ]
        busy = sum(busy_by_process)
        times[stage] = StageTime(busy=round(busy, 3), waiting=round(max(len(busy_by_process) * length - busy, 0.0), 3))
    return times


class StartTimes(BaseModel):
    """Seconds of each step of the start, of which some overlap, and until the first answers: None if there are none."""

    steps: dict[StartStep, float] = Field(default_factory=dict)
    until_first_answers: float | None = None


_LEAST_SECONDS = 0.0005  # that are told
OTHER = "other"
"""What is none of the stages and steps: Prefect between them, upkeep, waiting."""
# Where several are under way at once, a second is that of the first among these: what overlaps with the model's work
# costs nothing.
_WALL_ORDER: tuple[Stage | StartStep, ...] = (
    Stage.INFER,
    StartStep.MODEL,
    StartStep.SERVER,
    StartStep.IMPORTS,
    StartStep.LISTING,
    StartStep.PLANNING,
    Stage.DECODE,
    Stage.FETCH,
    Stage.VALIDATE,
    Stage.PUBLISH,
)


def wall_seconds(spans: Iterable[Span], began: float, ended: float) -> dict[str, float]:
    """Seconds of the clock on the wall between two moments, each counted once: those of stages and steps of the start,
    as something was at work on them in any process, and the `other`. They add up to the whole.
    """
    places = {kind: place for place, kind in enumerate(_WALL_ORDER)}
    changes = sorted(
        (min(max(moment, began), ended), places[span.stage], change)
        for span in spans
        if span.stage in places
        for moment, change in ((span.start, 1), (span.end, -1))
    )
    seconds = dict.fromkeys([*_WALL_ORDER, OTHER], 0.0)
    active, since = [0] * len(_WALL_ORDER), began
    for moment, place, change in [*changes, (ended, 0, 0)]:
        kind = next((kind for kind, count in zip(_WALL_ORDER, active, strict=True) if count), OTHER)
        seconds[kind] += moment - since
        active[place] += change
        since = moment
    return {str(kind): round(taken, 3) for kind, taken in seconds.items() if taken >= _LEAST_SECONDS}


_OF_FIRST_BATCH = (Stage.FETCH, Stage.DECODE, Stage.INFER)


def start_times(spans: Sequence[Span]) -> StartTimes:
    """What was done until the first batch was answered, by any process of a run."""
    first = min((span.end for span in spans if span.stage is Stage.INFER), default=float("inf"))
    before = [replace(span, end=min(span.end, first)) for span in spans if span.start < first]
    before.sort(key=lambda span: span.start)
    seconds = {
        step: _union_seconds(span for span in before if span.stage in kinds)
        for step in StartStep
        for kinds in [_OF_FIRST_BATCH if step is StartStep.FIRST_BATCH else (step,)]
    }
    steps = {step: round(taken, 3) for step, taken in seconds.items() if taken}
    is_answered = first < float("inf")
    return StartTimes(steps=steps, until_first_answers=round(first - before[0].start, 3) if is_answered else None)


def _union_seconds(spans: Iterable[Span]) -> float:
    """The seconds that spans cover, given in the order of their starts; where they overlap, once."""
    seconds, until = 0.0, float("-inf")
    for span in spans:
        seconds += max(span.end - max(span.start, until), 0.0)
        until = max(until, span.end)
    return seconds
