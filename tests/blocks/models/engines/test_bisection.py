"""A batch that fails is halved until the item to blame stands alone; what ends everything keeps what was made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightflow.blocks.models.contract import Incomplete
from sightflow.blocks.models.engines.bisection import bisect_failures
from sightflow.schemas.failure import Cause, Failure, ModelError


@given(st.integers(1, 40), st.sets(st.integers(0, 39)), st.integers(0, 60))
def test_each_item_has_its_own_output_and_the_end_keeps_those_before_it(count: int, bad: set[int], end: int) -> None:
    def attempt(items: list[int]) -> list[str]:
        if end in items and len(items) == 1:
            raise MemoryError
        if end in items or bad & set(items):
            raise ValueError
        return [f"made {item}" for item in items]

    def to_failure(error: Exception, items: list[int]) -> Failure:
        if isinstance(error, MemoryError):
            raise ModelError("the device is lost")
        return Failure(Cause.MODEL, "bad")

    def expected(item: int) -> object:
        return Failure(Cause.MODEL, "bad") if item in bad else f"made {item}"

    if end < count:
        with pytest.raises(Incomplete, match="device is lost") as stopped:
            bisect_failures(range(count), attempt, to_failure)
        assert stopped.value.done == [expected(item) for item in range(end)] + [None] * (count - end)
    else:
        assert bisect_failures(range(count), attempt, to_failure) == [expected(item) for item in range(count)]
