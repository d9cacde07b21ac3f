"""Tasks that are tried again, and which failures are worth another try."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from sightflow.schemas.failure import EmptySource, SightflowError, StoreError, StoreRefusal, is_about_this_machine

P = ParamSpec("P")
R = TypeVar("R")


def may_pass(failed_task: Any, task_run: Any, state: Any) -> bool:
    """Prefect's `retry_condition_fn`: not where every try would fail alike, as with a refused key or a full disk."""
    error = state.data
    if isinstance(error, SightflowError):
        return isinstance(error, StoreError) and not isinstance(error, StoreRefusal | EmptySource)
    return not is_about_this_machine(error)


def retried_task(task_run_name: str | None = None, retries: int = 2) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Prefect's `task` for what talks to a store: tried again after 2, 4, ... s, where that may help."""
    return task(
        task_run_name=task_run_name,
        retries=retries,
        retry_delay_seconds=exponential_backoff(2),
        retry_condition_fn=may_pass,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
