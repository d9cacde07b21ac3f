"""A run may be asked to stop; what is in flight is then finished and published, and the rest is left."""

from __future__ import annotations

import threading
from contextvars import ContextVar

from prefect.exceptions import Pause

from sightflow.schemas.failure import SightflowError

STOP: ContextVar[threading.Event | None] = ContextVar("sightflow_stop", default=None)
"""What the runs that are started from here look at before each shard; unset, nobody can ask them to stop."""


class RunStopped(Pause):
    """The run stopped as it was asked to, everything it had begun is published, and its state is for who asked to set.

    One of Prefect's signals, for a run that stops is neither failed nor crashed.
    """


class ShardSkipped(SightflowError):
    """A shard was not begun because the run was asked to stop; the next plan holds it again."""


def is_asked_to_stop() -> bool:
    """Whether the run that this is part of has been asked to stop."""
    stop = STOP.get()
    return stop is not None and stop.is_set()
