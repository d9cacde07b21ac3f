"""The progress bar in Prefect's UI."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from sightflow.schemas.run.plan import RunPlan
from sightflow.tasks.runtime.artifacts.best_effort import artifact_key, best_effort

_LAST_UPDATE_SECONDS = 2.0  # the longest that the end of a run waits for it


class ProgressArtifact:
    """The bar that the commits of a run move.

    A thread of its own moves it, to where the run is by then: a server that answers late, or not, holds nobody up.
    """

    def __init__(self, catalog: str) -> None:
        self._key = artifact_key(catalog, "progress")
        self._total = self._done = 0
        self._advanced = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None

    def planned(self, run_plan: RunPlan) -> None:
        """Begin to show the run, if it has anything to compute."""
        self._total = run_plan.to_compute
        if self._total:
            context = contextvars.copy_context()
            self._thread = threading.Thread(target=context.run, args=(self._follow,), name="progress", daemon=True)
            self._thread.start()

    def advanced(self, published: int, quarantined: int) -> None:
        """Move the bar by so many results."""
        self._done += published + quarantined
        self._advanced.set()

    def end(self) -> None:
        """Show where the run has come, and wait for that, but not for long."""
        self._ended = True
        self._advanced.set()
        if self._thread is not None:
            self._thread.join(_LAST_UPDATE_SECONDS)

    @best_effort
    def _follow(self) -> None:
        description = f"{self._total:,} results to compute"
        artifact_id: Any = create_progress_artifact(progress=0.0, key=self._key, description=description)
        ended = False
        while not ended:
            self._advanced.wait()
            self._advanced.clear()
            ended = self._ended
            self._update(artifact_id)

    @best_effort
    def _update(self, artifact_id: Any) -> None:
        update_progress_artifact(artifact_id, min(100.0 * self._done / self._total, 100.0))
