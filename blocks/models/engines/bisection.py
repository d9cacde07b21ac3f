"""A batch that fails as a whole is halved until the item to blame stands alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sightflow.schemas.failure import Failure

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

    `to_failure`: what an exception means for an item that stands alone; it may raise what ends everything.
    `worth_trying`: whether a batch is attempted before it is halved. `after_failure`: called when the traceback, which
    keeps the batch's tensors alive, is gone.
    """
    half = len(items) // 2
    failure: Failure | None = None
    if not half or worth_trying(items):
        try:
            return list(attempt(items))
        except Exception as error:
            failure = to_failure(error, items)
        after_failure(failure, items)
    if half:
        rest = (attempt, to_failure, worth_trying, after_failure)
        return [*bisect_failures(items[:half], *rest), *bisect_failures(items[half:], *rest)]
    assert failure is not None
    return [failure]
