"""Bytes that are held for a while: never more at once than their limit, and all are let in in the end."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightflow.tasks.memory import admission
from sightflow.tasks.memory.admission import Admission


@given(st.lists(st.integers(0, 150), max_size=40))
def test_all_are_let_in_and_more_than_the_limit_only_alone(sizes: list[int]) -> None:
    admitted, lock, held = Admission(100, "a shard", "-"), threading.Lock(), list[int]()

    def hold(size: int) -> None:
        admitted.acquire(size)
        with lock:
            held.append(size)
            assert sum(held) <= 100 or sum(each > 0 for each in held) == 1
        with lock:
            held.remove(size)
        admitted.release(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, sizes, timeout=60))
    assert not admitted.is_half_full


def test_what_waits_says_for_what_and_is_let_in_when_nobody_is_left_to_make_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(admission, "_TOLD_AFTER_SECONDS", 0.01)
    rows = Admission(10 * 2**20, "a shard's rows", "those before them are committed")
    rows.acquire(8 * 2**20)
    assert rows.is_half_full
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(rows.acquire, 5 * 2**20)
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        rows.lift()
        waiting.result(10)
    assert "a shard's rows of 5 MiB waits until those before them are committed: 8 MiB are held" in caplog.text
