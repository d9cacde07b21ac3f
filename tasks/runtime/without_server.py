"""What has been answered is published, whatever has become of Prefect's server meanwhile."""

from __future__ import annotations

from typing import Any, ParamSpec, TypeVar

from prefect.futures import PrefectFuture

from sightflow.schemas.failure import SightflowError, is_about_this_machine
from sightflow.schemas.run.plan import Shard
from sightflow.schemas.vision import Replies
from sightflow.tasks.retries import RetriedTask
from sightflow.tasks.runtime.cancellation import is_asked_to_stop
from sightflow.tasks.validate import Validated, validate

P = ParamSpec("P")
R = TypeVar("R")


def validated_answers(shard: Shard, stages: tuple[PrefectFuture[Any], ...], run_id: str) -> Validated:
    """What a shard's futures, in the order of its stages, end in. Raises what the last of them does.

    Before a task begins Prefect asks its server how the tasks stand whose futures it is given. Where the server is gone
    by then, the answers of the model are validated without it: they may have been paid for.
    """
    try:
        validated: Validated = stages[-1].result()
        return validated
    except Exception as error:
        replies = None if isinstance(error, SightflowError) else _replies(stages)
        if replies is None:
            raise
    return validate.fn(shard, replies, run_id)


def call_despite_lost_server(task: RetriedTask[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What a task gives that may be called twice; where the run's own server is gone, its function without Prefect."""
    try:
        return task(*args, **kwargs)
    except Exception as error:
        if isinstance(error, SightflowError) or is_about_this_machine(error) or not is_asked_to_stop():
            raise
    return task.without_prefect(*args, **kwargs)


def _replies(stages: tuple[PrefectFuture[Any], ...]) -> Replies | None:
    """What the model has answered, if it has."""
    try:
        results = [stage.result() for stage in stages[:-1]]
    except BaseException:  # all of them: Prefect ends tasks with what is no Exception
        return None
    return next((result for result in results if isinstance(result, Replies)), None)
