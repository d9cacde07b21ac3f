"""Tasks that are tried again, and which failures are worth another try."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from sightflow.schemas.failure import EmptySource, SightflowError, StoreError, StoreRefusal, is_about_this_machine

if TYPE_CHECKING:
    from prefect import Task
    from prefect.futures import PrefectFuture

P = ParamSpec("P")
R = TypeVar("R")

_FIRST_DELAY_SECONDS = 2


def may_pass(failed_task: Any, task_run: Any, state: Any) -> bool:
    """Prefect's `retry_condition_fn`: not where every try would fail alike, as with a refused key or a full disk."""
    return _may_pass(state.data)


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, SightflowError):
        return isinstance(error, StoreError) and not isinstance(error, StoreRefusal | EmptySource)
    return not is_about_this_machine(error)


class RetriedTask(Generic[P, R]):
    """A function that is tried again, as a Prefect task or without Prefect; `fn` is the function itself.

    The task is made, and Prefect imported, when it is first called or asked for anything that a task has.
    """

    def __init__(self, fn: Callable[P, R], task_run_name: str | None, retries: int) -> None:
        self.fn, self._task_run_name, self._retries = fn, task_run_name, retries
        update_wrapper(self, fn)

    @cached_property
    def _task(self) -> Task[P, R]:
        from prefect import task
        from prefect.cache_policies import NO_CACHE
        from prefect.tasks import exponential_backoff

        made: Callable[[Callable[P, R]], Task[P, R]] = task(
            task_run_name=self._task_run_name,
            retries=self._retries,
            retry_delay_seconds=exponential_backoff(_FIRST_DELAY_SECONDS),
            retry_condition_fn=may_pass,
            cache_policy=NO_CACHE,
            persist_result=False,
        )
        return made(self.fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._task(*args, **kwargs)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> PrefectFuture[R]:
        """Have it run by the task runner of the flow."""
        return self._task.submit(*args, **kwargs)

    def without_prefect(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now; it is tried again as the task is."""
        for tried in range(self._retries):
            try:
                return self.fn(*args, **kwargs)
            except Exception as error:
                if not _may_pass(error):
                    raise
            time.sleep(_FIRST_DELAY_SECONDS * 2**tried)
        return self.fn(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._task, name)


def retried_task(task_run_name: str | None = None, retries: int = 2) -> Callable[[Callable[P, R]], RetriedTask[P, R]]:
    """A task for what talks to a store: tried again after 2, 4, ... s, where that may help."""
    return lambda fn: RetriedTask(fn, task_run_name, retries)
