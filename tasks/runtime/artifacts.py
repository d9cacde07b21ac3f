"""Prefect artifacts that cost a run nothing: what Prefect does not take is logged and left out."""

from __future__ import annotations

import contextvars
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, ParamSpec

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, SettingsContext
from prefect.logging import get_run_logger
from prefect.settings import get_current_settings

from sightflow.schemas.run.plan import RunPlan

P = ParamSpec("P")

_NOT_IN_A_KEY = re.compile(r"[^a-z0-9]+")
_LONGEST_FAREWELL_SECONDS = 2.0


def artifact_key(catalog: str, what: str) -> str:
    """The key of a catalog's artifact, e.g. `sightflow-shop-catalog-report` for `s3://shop/catalog`."""
    place = _NOT_IN_A_KEY.sub("-", catalog.partition("://")[2].lower()).strip("-")
    return f"sightflow-{place}-{what}"


def costs_nothing(show: Callable[P, None]) -> Callable[P, None]:
    """Outside a flow run nothing is shown; within one, what cannot be shown is logged and costs nothing."""

    @wraps(show)
    def shown(*args: P.args, **kwargs: P.kwargs) -> None:
        if FlowRunContext.get() is None:
            return
        try:
            with _few_retries():
                show(*args, **kwargs)
        except Exception as error:
            get_run_logger().warning("not shown in Prefect: %s", type(error).__name__)

    return shown


def _few_retries() -> AbstractContextManager[Any]:
    """Prefect is not asked again and again for a minute, as for what matters.

    A copy of the settings: `temporary_settings` reads them all anew, which takes 26 ms, at each commit too.
    """
    now = get_current_settings()
    client = now.client.model_copy(update={"max_retries": 1})
    context = SettingsContext.get()
    assert context is not None
    return SettingsContext(profile=context.profile, settings=now.model_copy(update={"client": client}))


class ProgressArtifact:
    """The bar in Prefect's UI, which the commits of a run move.

    A thread of its own moves it, to where the run is by then: a server that answers late, or not, holds nobody up.
    """

    def __init__(self, catalog: str) -> None:
        self._key = artifact_key(catalog, "progress")
        self._total = self._done = 0
        self._moved = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None

    def planned(self, work: RunPlan) -> None:
        """Begin to show the run, if it has anything to compute."""
        self._total = work.to_compute
        if self._total:
            context = contextvars.copy_context()
            self._thread = threading.Thread(target=context.run, args=(self._follow,), name="progress", daemon=True)
            self._thread.start()

    def advanced(self, published: int, quarantined: int) -> None:
        """Move the bar by so many results."""
        self._done += published + quarantined
        self._moved.set()

    def end(self) -> None:
        """Show where the run has come, and wait for that, but not for long."""
        self._ended = True
        self._moved.set()
        if self._thread is not None:
            self._thread.join(_LONGEST_FAREWELL_SECONDS)

    @costs_nothing
    def _follow(self) -> None:
        what = f"{self._total:,} results to compute"
        bar: Any = create_progress_artifact(progress=0.0, key=self._key, description=what)
        ended = False
        while not ended:
            self._moved.wait()
            self._moved.clear()
            ended = self._ended
            self._move(bar)

    @costs_nothing
    def _move(self, bar: Any) -> None:
        update_progress_artifact(bar, min(100.0 * self._done / self._total, 100.0))
