"""Large images are decoded so few at once that their bytes stay within a bound; every one of them comes in the end."""

import io
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from sightflow.schemas.spec import Limits
from sightflow.tasks.media import request_batches
from sightflow.tasks.media.pixel_budget import PixelBudget, PixelMemory


def test_images_come_in_by_their_place_and_within_the_limit() -> None:
    budget, used, most, order = PixelBudget(PixelMemory(100)), [0], [0], []
    lock = threading.Lock()

    def decode(place: int) -> None:
        time.sleep(0.01 if place % 2 else 0)
        budget.reserve(place, 60)
        with lock:
            order.append(place)
            used[0] += 60
            most[0] = max(most[0], used[0])
        time.sleep(0.002)
        with lock:
            used[0] -= 50
        budget.settle(place, 10)

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(decode, place) for place in range(24)]
        for first in range(0, 24, 4):
            for place in range(first, first + 4):
                budget.awaits(place)
                futures[place].result(timeout=20)
            with lock:
                used[0] -= 40
            for place in range(first, first + 4):
                budget.release(place)
    assert order == list(range(24))
    assert most[0] <= 100 + 60


def test_an_image_larger_than_the_limit_is_let_in_alone_and_failures_hold_nobody_up() -> None:
    budget = PixelBudget(PixelMemory(100))
    budget.settle(0, 0)
    budget.settle(2, 0)
    budget.reserve(1, 500)
    waiting = threading.Thread(target=budget.reserve, args=(3, 10))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    budget.release(1)
    waiting.join(10)
    assert not waiting.is_alive()


def test_who_waits_is_told_when_nobody_reads_on() -> None:
    memory = PixelMemory(100)
    other, budget = PixelBudget(memory), PixelBudget(memory)
    other.reserve(0, 90)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(budget.reserve, 0, 20)
        budget.close()
        with pytest.raises(CancelledError):
            waiting.result(10)
    assert memory.used == 90


def test_the_shards_of_a_process_share_the_memory_and_one_image_at_a_time_exceeds_it() -> None:
    memory = PixelMemory(100)
    budgets = [PixelBudget(memory) for _ in range(3)]
    assert budgets[0].share == 33
    for budget in budgets:
        budget.awaits(0)
    budgets[0].reserve(0, 80)
    budgets[1].reserve(0, 80)  # the first that is waited for, though there is no room
    with ThreadPoolExecutor(1) as pool:
        third = pool.submit(budgets[2].reserve, 0, 80)
        with pytest.raises(TimeoutError):
            third.result(0.1)
        budgets[1].settle(0, 40)  # decoded
        third.result(10)
    assert memory.used == 80 + 40 + 80


def test_an_image_that_is_tried_twice_reserves_once() -> None:
    memory = PixelMemory(100)
    budget = PixelBudget(memory)
    budget.reserve(0, 80)
    budget.reserve(0, 80)
    assert memory.used == 80


PEAK = """
import io, resource, sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from PIL import Image
from sightflow.schemas.spec import Limits
from sightflow.tasks.media import request_batches
from sightflow.tasks.media.pixel_budget import PixelMemory
request_batches._PIXEL_MEMORY, request_batches._DECODERS = PixelMemory(2**27), 8
content = io.BytesIO()
Image.new("RGBA", (3000, 3000)).save(content, "PNG")
def read(shard):
    items = [SimpleNamespace(uri=str(k), enrichments=("caption",)) for k in range(4)]
    shard = SimpleNamespace(items=items, resolved=lambda name: SimpleNamespace(enrichment=name))
    fetched = SimpleNamespace(take=lambda uri: content.getvalue())
    model = SimpleNamespace(objects_at_once=16, decoded_side=None)
    return sum(len(batch) for batch in request_batches.image_batches(shard, fetched, Limits(), model, []))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ThreadPoolExecutor(3) as pool:
    assert sum(pool.map(read, range(3))) == 12
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_three_shards_of_large_images_take_what_one_does() -> None:
    # A budget of 128 MiB; one image takes up to 216 MB while it is decoded, and 36 MB when it has been.
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 800


def test_a_shard_of_large_images_comes_whole_and_in_order_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.new("RGB", (100, 100)).save(content, "PNG")
    monkeypatch.setattr(request_batches, "_PIXEL_MEMORY", PixelMemory(4 * 100 * 100 * 6))
    items = [SimpleNamespace(uri=f"s3://b/{k}", enrichments=("caption",)) for k in range(40)]
    shard: Any = SimpleNamespace(items=items, resolved=lambda name: SimpleNamespace(enrichment=name))
    fetched: Any = SimpleNamespace(take=lambda uri: content.getvalue())
    model: Any = SimpleNamespace(objects_at_once=16, decoded_side=None)
    batches = list(request_batches.image_batches(shard, fetched, Limits(), model, []))
    assert [asked.shard_item.uri for batch in batches for asked in batch] == [item.uri for item in items]
    assert {len(batch) for batch in batches} == {3, 1}
    reading = request_batches.image_batches(shard, fetched, Limits(), model, [])
    next(reading)
    reading.close()  # type: ignore[attr-defined]
