"""Shards whose futures end as a test says, for the publisher."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import TextResult
from sightflow.schemas.failure import Cause, Failure
from sightflow.schemas.run.plan import RunPlan, Shard, ShardItem
from sightflow.tasks.runtime.publisher import Publisher
from sightflow.tasks.validate import Validated
from tests.tasks.test_validate import answer, validated

NOTHING = pl.DataFrame()
PLAN = RunPlan(NOTHING, NOTHING, NOTHING, (), (), 0, 0)
PATIENT = 3600.0


class HandMade:
    """The future of a stage, which ends as the test says."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Any], None]] = []
        self._ended = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self.state = self

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def succeed(self, value: Any = None) -> "HandMade":
        self._value = value
        return self._end()

    def fail(self, error: BaseException) -> "HandMade":
        self._error = error
        return self._end()

    def _end(self) -> "HandMade":
        self._ended.set()
        for callback in self._callbacks:
            callback(self)
        return self

    def wait(self) -> None:
        assert self._ended.wait(10)

    def result(self) -> Any:
        self.wait()
        if self._error is not None:
            raise self._error
        return self._value

    def is_failed(self) -> bool:
        return self._error is not None

    def is_crashed(self) -> bool:
        return False


def shards(count: int = 100) -> list[Shard]:
    return [
        Shard(k, "gemini", MediaKind.IMAGE, (ShardItem(f"s3://b/{k}", "etag-5", 5, ("asked",)),), ())
        for k in range(count)
    ]


def row(k: int) -> Validated:
    return validated(answer(Capability.IMAGE_CAPTIONING, TextResult("a dog"), f"s3://b/{k}"))


def failed(k: int) -> Validated:
    return validated(answer(Capability.IMAGE_CAPTIONING, Failure(Cause.DECODE, "broken"), f"s3://b/{k}"))


def begin(publisher: Publisher, shard: Shard) -> HandMade:
    future = HandMade()
    publisher.publish(shard, future)
    return future


def run_all(publisher: Publisher, results: Sequence[Validated | BaseException]) -> int:
    """Begin shard after shard, each ending at once; return how many were begun."""
    begun = 0
    for shard, result in zip(publisher.throttled(shards(len(results))), results, strict=True):
        begun += 1
        future = begin(publisher, shard)
        future.fail(result) if isinstance(result, BaseException) else future.succeed(result)
    return begun


def published(catalog: Catalog) -> list[str]:
    return sorted(catalog.scan("enrichments").select("uri").collect()["uri"])


def uris(*numbers: int) -> list[str]:
    return [f"s3://b/{k}" for k in numbers]


def eventually(condition: Callable[[], bool]) -> None:
    patience = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.01)


def refuse(error: BaseException) -> Callable[..., Any]:
    def raising(*_: Any) -> Any:
        raise error

    return raising
