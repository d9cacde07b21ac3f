"""Which tasks that failed are worth another try."""

from __future__ import annotations

from typing import Any

from sightflow.schemas.failure import EmptySource, SightflowError, StoreError, StoreRefusal, is_about_this_machine


def may_pass(task: Any, task_run: Any, state: Any) -> bool:
    """Prefect's `retry_condition_fn`: not where every try would fail alike, as with a refused key or a full disk."""
    error = state.data
    if isinstance(error, SightflowError):
        return isinstance(error, StoreError) and not isinstance(error, StoreRefusal | EmptySource)
    return not is_about_this_machine(error)
