"""A batch that fails as a whole is halved until the item to blame stands alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sightflow.blocks.models.contract import Incomplete
from sightflow.schemas.failure import Failure, ModelError

Item = TypeVar("Item")
Out = TypeVar("Out")


def bisect_failures(
    items: Sequence[Item],
    attempt: Callable[[Sequence[Item]], list[Out]],
    to_failure: Callable[[Exception, Sequence[Item]], Failure],
    worth_trying: Callable[[Sequence[Item]], bool] = lambda _: True,
    after_failure: Callable[[Failure, Sequence[Item]], None] = lambda _failure, _items: None,
) -> list[Out | Failure]:
    """One output an item, in order: what `attempt` makes of a batch, or of its halves if it raises.

    `to_failure`: what an exception means for an item that stands alone; a ModelError that it raises ends everything,
    and `Incomplete` is raised with what has been made of the items before.
    `worth_trying`: whether a batch is attempted before it is halved. `after_failure`: called when the traceback, which
    keeps the batch's tensors alive, is gone.
    """
    half = len(items) // 2
    failure: Failure | None = None
    if not half or worth_trying(items):
        try:
            return list(attempt(items))
        except Exception as error:
            failure = _failure_or_end(error, items, to_failure)
        after_failure(failure, items)
    if half:
        made: list[Out | Failure] = []
        for part in (items[:half], items[half:]):
            try:
                of_part = bisect_failures(part, attempt, to_failure, worth_trying, after_failure)
            except Incomplete as stopped:
                done = [*made, *stopped.done]
                raise Incomplete(str(stopped), [*done, *[None] * (len(items) - len(done))]) from None
            made += of_part
        return made
    assert failure is not None
    return [failure]


def _failure_or_end(
    error: Exception, items: Sequence[Item], to_failure: Callable[[Exception, Sequence[Item]], Failure]
) -> Failure:
    try:
        return to_failure(error, items)
    except ModelError as fatal:
        raise Incomplete(str(fatal), [None] * len(items)) from None
