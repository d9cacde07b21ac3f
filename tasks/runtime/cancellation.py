"""A run may be asked to stop; what is in flight is then finished and published, and the rest is left."""

from __future__ import annotations

import threading
from contextvars import ContextVar

from prefect.exceptions import Pause

from sightflow.schemas.failure import SightflowError

STOP: ContextVar[threading.Event | None] = ContextVar("sightflow_stop", default=None)
"""What the runs that are started from here look at before each shard; unset, nobody can ask them to stop."""


HALT: ContextVar[threading.Event | None] = ContextVar("sightflow_halt", default=None)
"""Set when something has ended the run that this is part of: nothing more is to be spent on it."""


class RunStopped(Pause):
    """The run stopped as it was asked to, everything it had begun is published, and its state is for who asked to set.

    One of Prefect's signals, for a run that stops is neither failed nor crashed.
    """


class ShardSkipped(SightflowError):
    """A shard was not begun, or not finished, because the run stops; the next plan holds what is left of it."""


def is_asked_to_stop() -> bool:
    """Whether the run that this is part of has been asked to stop."""
    stop = STOP.get()
    return stop is not None and stop.is_set()


def is_halted() -> bool:
    """Whether something has ended the run that this is part of, so that what it asks now could not be kept."""
    halt = HALT.get()
    return halt is not None and halt.is_set()
