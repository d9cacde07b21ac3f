"""Decoded pixels stay within their part of the memory, whatever is decoded, and everything comes in the end."""

import io
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sightflow.schemas.failure import Cause
from sightflow.schemas.policy import Limits
from sightflow.tasks.media.request_batches import InferenceItem, image_batches
from sightflow.tasks.memory import pixel_budget
from sightflow.tasks.memory.pixel_budget import NeverFits, NoRoom, PixelBudget, PixelMemory

SIZES = st.lists(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 100)), max_size=12), min_size=1, max_size=4)
"""For each shard its items: what decoding one takes, and how many hundredths of that it holds when it is decoded."""


class Watched(PixelMemory):
    """Remembers the most that was held at once."""

    most = 0

    @property
    def used(self) -> int:
        held = super().used
        self.most = max(self.most, held)
        return held


@given(SIZES, st.integers(100, 400), st.integers(1, 6), st.integers(0, 2**16))
def test_however_large_all_are_let_in_and_never_more_than_the_limit(
    shards: list[list[tuple[int, int]]], limit: int, group_size: int, seed: int
) -> None:
    memory, chance, model = Watched(), random.Random(seed), threading.Semaphore(2)
    order = [list(range(len(shard))) for shard in shards]

    def read(shard: list[tuple[int, int]]) -> list[int]:
        """As `image_batches` reads, with hardly anything to decode."""
        taken: list[int] = []

        def decode(place: int) -> None:
            size, kept = shard[place]
            budget.reserve(place, size)
            assert memory.used <= limit
            budget.settle(place, size * kept // 100)

        with PixelBudget(limit, memory) as budget, ThreadPoolExecutor(chance.randint(1, 4)) as pool:
            decoding = [pool.submit(decode, place) for place in range(len(shard))]
            while len(taken) < len(shard):
                group: list[int] = []
                while len(taken) < len(shard) and len(group) < group_size:
                    if not budget.wait_until_decoded(decoding[len(taken)], is_holding=bool(group)):
                        break
                    group.append(len(taken))
                    taken.append(len(taken))
                with budget.lent(), model:
                    assert group
                for place in group:
                    budget.release(place)
        return taken

    with ThreadPoolExecutor(len(shards)) as pool:
        futures = [pool.submit(read, shard) for shard in shards]
        assert [future.result(timeout=60) for future in futures] == order
    assert memory.most <= limit and not memory.budgets and not memory.waiting


def test_what_is_larger_than_all_there_is_is_told_so_and_holds_nobody_up() -> None:
    with PixelBudget(100 * 2**20, PixelMemory()) as budget:
        with pytest.raises(NeverFits, match=r"takes 101 MiB, and policy.memory leaves 100 MiB for pixels; raise it"):
            budget.reserve(0, 101 * 2**20)
        budget.settle(0, 0)
        budget.settle(2, 0)
        budget.reserve(1, 50)
        budget.reserve(3, 50)
        assert budget.used == 100


def test_shards_take_turns_so_that_small_images_do_not_shut_a_large_one_out() -> None:
    memory = PixelMemory()
    with PixelBudget(100, memory) as small, PixelBudget(100, memory) as large, ThreadPoolExecutor(2) as pool:
        small.reserve(0, 60)
        waiting = pool.submit(large.reserve, 0, 80)
        while not memory.waiting:
            pass
        behind = pool.submit(small.reserve, 1, 10)
        with pytest.raises(TimeoutError):
            behind.result(0.1)
        assert small.would_wait(1)
        small.release(0)
        waiting.result(10)
        behind.result(10)
        assert memory.used == 90


def test_a_reader_gives_away_what_it_has_only_where_no_model_makes_room() -> None:
    memory = PixelMemory()
    with PixelBudget(100, memory) as one, PixelBudget(100, memory) as other, ThreadPoolExecutor(2) as pool:
        one.reserve(0, 50)
        other.reserve(0, 50)
        decoding = pool.submit(one.reserve, 1, 50)
        with other.lent():
            given_away = pool.submit(one.wait_until_decoded, decoding, is_holding=True)
            with pytest.raises(TimeoutError):
                given_away.result(0.1)
        assert given_away.result(10) is False
        one.release(0)
        assert one.wait_until_decoded(decoding, is_holding=True)


def test_who_waits_is_told_when_nobody_reads_on() -> None:
    memory = PixelMemory()
    with PixelBudget(100, memory) as other:
        other.reserve(0, 90)
        with ThreadPoolExecutor(1) as pool, PixelBudget(100, memory) as budget:
            waiting = pool.submit(budget.reserve, 0, 20)
            budget.close()
            with pytest.raises(CancelledError):
                waiting.result(10)
        assert memory.used == 90
    assert memory.used == 0


def test_an_image_that_is_tried_twice_reserves_once() -> None:
    with PixelBudget(100, PixelMemory()) as budget:
        budget.reserve(0, 80)
        budget.reserve(0, 80)
        assert budget.used == 80


def test_what_is_waited_for_is_logged_and_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pixel_budget, "_TOLD_AFTER_SECONDS", 0.01)
    monkeypatch.setattr(pixel_budget, "_STALLED_SECONDS", 0.05)
    with PixelBudget(100 * 2**20, PixelMemory()) as budget:
        budget.reserve(0, 90 * 2**20)
        with pytest.raises(NoRoom, match="no room for 20 MiB"):
            budget.reserve(1, 20 * 2**20)
    assert "waits for 20 MiB of memory: 1 shards hold 90 MiB of the 100 MiB that policy.memory leaves" in caplog.text


PEAK = """
import io, re
from pathlib import Path
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from PIL import Image
from sightflow.schemas.policy import Limits
from sightflow.tasks.media import request_batches
from sightflow.tasks.memory.pixel_budget import PixelBudget
request_batches._DECODERS = 8
content = io.BytesIO()
Image.new("RGBA", (2200, 2200)).save(content, "PNG")
def read(shard):
    items = [SimpleNamespace(uri=str(k), enrichments=("caption",)) for k in range(4)]
    shard = SimpleNamespace(items=items, resolved=lambda name: SimpleNamespace(enrichment=name))
    fetched = SimpleNamespace(take=lambda uri: content.getvalue())
    model = SimpleNamespace(objects_at_once=16, decoded_side=None)
    batches = request_batches.image_batches(shard, fetched, Limits(), model, [], PixelBudget(2**27))
    return sum(item.failure is None for batch in batches for item in batch)
# Not ru_maxrss, which a process inherits from the one that started it.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1)) // 1024
before = peak()
with ThreadPoolExecutor(3) as pool:
    assert sum(pool.map(read, range(3))) == 12
print(peak() - before)
"""


def test_three_shards_of_large_images_take_what_one_does() -> None:
    # 128 MiB, of which an image takes up to 111 while it is decoded. With a gibibyte of it all twelve take some 700.
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 300


def batches_of(images: int, side: int, memory: int) -> Iterator[list[InferenceItem]]:
    content = io.BytesIO()
    Image.new("RGB", (side, side)).save(content, "PNG")
    items = [SimpleNamespace(uri=f"s3://b/{k}", enrichments=("caption",)) for k in range(images)]
    shard: Any = SimpleNamespace(items=items, resolved=lambda name: SimpleNamespace(enrichment=name))
    fetched: Any = SimpleNamespace(take=lambda uri: content.getvalue())
    model: Any = SimpleNamespace(objects_at_once=16, decoded_side=None)
    return image_batches(shard, fetched, Limits(), model, [], PixelBudget(memory, PixelMemory()))


def test_a_shard_of_large_images_comes_whole_and_in_order_a_few_at_a_time() -> None:
    batches = list(batches_of(40, 100, 4 * 100 * 100 * 6))
    assert [asked.shard_item.uri for batch in batches for asked in batch] == [f"s3://b/{k}" for k in range(40)]
    assert max(map(len, batches)) <= 4
    reading = batches_of(40, 100, 4 * 100 * 100 * 6)
    next(reading)
    reading.close()  # type: ignore[attr-defined]


def test_an_image_that_never_fits_fails_with_what_to_do_and_the_others_come() -> None:
    (failed,) = [item.failure for batch in batches_of(1, 200, 4 * 100 * 100 * 6) for item in batch]
    assert failed and failed.cause is Cause.TOO_LARGE and "raise it, and replay" in failed.message
