"""What has been done of a run before its flow begins."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sightflow.schemas.run.plan import RunPlan
from sightflow.schemas.run.timing import Span


@dataclass(eq=False)
class RunStart:
    """When a run began, its plan, if it was made already, and where the time before the flow went."""

    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    run_plan: RunPlan | None = None
    spans: list[Span] = field(default_factory=list)


RUN_START: ContextVar[RunStart | None] = ContextVar("sightflow_run_start", default=None)
"""Of the run that is started from here; unset, its flow is all there is of it."""


def run_start() -> RunStart:
    """The start of the run that this is part of, which begins now if nobody began it."""
    return RUN_START.get() or RunStart()
