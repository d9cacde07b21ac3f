"""The publisher when something fails: what costs a shard, what ends the run, and what is published all the same."""

# ruff: noqa: PT012 - it is leaving the publisher's block that raises

import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import TextResult
from sightflow.schemas.failure import ModelError, StoreError
from sightflow.schemas.policy import Policy, Upkeep
from sightflow.schemas.run.plan import Shard
from sightflow.schemas.vision import Replies
from sightflow.tasks.runtime import publisher as publishing
from sightflow.tasks.runtime.cancellation import STOP, RunStopped, ShardSkipped, is_halted
from sightflow.tasks.runtime.publisher import Publisher, concerns_the_run
from tests.tasks.runtime.hand_made import (
    PLAN,
    HandMade,
    begin,
    eventually,
    published,
    refuse,
    row,
    run_all,
    shards,
    uris,
)
from tests.tasks.test_validate import answer

pytestmark = pytest.mark.usefixtures("commits")


def test_a_lost_shard_costs_itself_alone_and_is_raised_and_logged_with_its_traceback(
    catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    results = [row(0), ValueError("a defect"), row(2), KeyError("another"), row(4)]
    publisher = Publisher(catalog, PLAN, Policy(shards_ahead=1))
    with pytest.raises(ValueError, match="a defect"), publisher:
        assert run_all(publisher, results) == 5, "two lost shards stop nothing"
    assert published(catalog) == uris(0, 2, 4)
    logged = [record for record in caplog.records if "is lost" in record.message]
    assert [record.message for record in logged] == [
        "shard 1 is lost, and the next plan holds what has no answer: ValueError: a defect",
        "shard 3 is lost, and the next plan holds what has no answer: KeyError: 'another'",
    ]
    assert all(record.exc_info for record in logged)


def test_three_lost_shards_stop_the_run_and_what_is_in_flight_is_published(catalog: Catalog) -> None:
    publisher = Publisher(catalog, PLAN, Policy(shards_ahead=2))
    with pytest.raises(ValueError, match="lost 1"), publisher:
        throttled = publisher.throttled(shards())
        slow = begin(publisher, next(throttled))
        for k in (1, 2, 3):
            begin(publisher, next(throttled)).fail(ValueError(f"lost {k}"))
        with pytest.raises(ValueError, match="lost 1"):
            next(throttled)
        slow.succeed(row(0))
    assert published(catalog) == uris(0)


def test_answers_are_published_though_prefect_cannot_run_what_comes_after_them(catalog: Catalog) -> None:
    """Its server has gone between the question to the model and the beginning of the next task."""
    lost = ConnectionError("All connection attempts failed")
    given = answer(Capability.IMAGE_CAPTIONING, TextResult("a dog"), "s3://b/0")
    with Publisher(catalog, PLAN, Policy(), run_id="run 7") as publisher:
        (shard,) = publisher.throttled(shards(1))
        asked = Shard(0, "gemini", MediaKind.IMAGE, shard.items, (given.resolved,))
        last = HandMade()
        publisher.publish(asked, HandMade().succeed(), HandMade().succeed(Replies([given], [])), last)
        last.fail(lost)
    assert published(catalog) == uris(0) and publisher.errors == []
    assert catalog.scan("enrichments").collect()["run_id"].to_list() == ["run 7"]


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_group_is_committed_though_prefect_cannot_run_its_task(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    """Its server, of this run alone, has gone; of another error nothing is concluded."""
    stop = threading.Event()
    token = STOP.set(stop)
    committed = publishing.publish

    class Unable:
        without_prefect = staticmethod(committed)

        def __call__(self, *_: Any) -> int:
            raise RuntimeError("Unable to acquire concurrency slots")

    monkeypatch.setattr(publishing, "publish", Unable())
    publisher = Publisher(catalog, PLAN, Policy())
    try:
        with nullcontext() if is_lost else pytest.raises(RuntimeError, match="Unable"), publisher:
            (shard,) = publisher.throttled(shards(1))
            if is_lost:
                stop.set()
            begin(publisher, shard).succeed(row(0))
    finally:
        STOP.reset(token)
    assert published(catalog) == (uris(0) if is_lost else [])


def test_what_was_never_answered_is_lost_with_its_error(catalog: Catalog) -> None:
    publisher = Publisher(catalog, PLAN, Policy())
    with pytest.raises(ConnectionError, match="failed"), publisher:
        (shard,) = publisher.throttled(shards(1))
        last = HandMade()
        publisher.publish(shard, HandMade().succeed(), HandMade().fail(ConnectionError("failed")), last)
        last.fail(ConnectionError("failed"))
    assert published(catalog) == []


@pytest.mark.parametrize("error", [StoreError("the keys are refused"), SystemExit(1), KeyboardInterrupt()])
def test_an_error_about_the_run_stops_it_and_what_is_in_flight_is_published(
    catalog: Catalog, error: BaseException
) -> None:
    publisher = Publisher(catalog, PLAN, Policy(shards_ahead=2))
    with pytest.raises(type(error)) as raised, publisher:
        throttled = publisher.throttled(shards())
        slow = begin(publisher, next(throttled))
        begin(publisher, next(throttled)).fail(error)
        with pytest.raises(type(error)):
            next(throttled)
        slow.succeed(row(0))
    assert raised.value is error
    assert published(catalog) == uris(0)


@pytest.mark.parametrize(
    ("error", "concerns"),
    [
        (StoreError("the disk is full"), True),
        (ModelError("a bad key"), True),
        (SystemExit(1), True),
        (ValueError("a defect"), False),
        (OSError("a broken pipe"), False),
    ],
)
def test_what_concerns_the_run_and_what_one_shard(error: BaseException, concerns: bool) -> None:
    assert concerns_the_run(error) is concerns


def test_the_stage_that_failed_first_is_named_and_not_the_one_that_waited_for_it(catalog: Catalog) -> None:
    publisher = Publisher(catalog, PLAN, Policy())
    with pytest.raises(ModelError, match="no weights"), publisher:
        (shard,) = publisher.throttled(shards(1))
        fetched, replies, last = HandMade().succeed(), HandMade().fail(ModelError("no weights")), HandMade()
        publisher.publish(shard, fetched, replies, last)
        last.fail(RuntimeError("an upstream task failed"))


def test_what_the_block_raises_comes_first_and_what_is_in_flight_is_published(catalog: Catalog) -> None:
    publisher = Publisher(catalog, PLAN, Policy())
    with pytest.raises(ZeroDivisionError), publisher:
        for k, shard in enumerate(publisher.throttled(shards(2))):
            future = begin(publisher, shard)
            future.succeed(row(0)) if k == 0 else future.fail(ValueError("a defect"))
        raise ZeroDivisionError
    assert published(catalog) == uris(0)


def test_a_commit_that_fails_stops_the_run_is_raised_at_the_end_and_the_next_group_is_tried(
    catalog: Catalog, commits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    works = publishing.publish
    monkeypatch.setattr(publishing, "publish", refuse(StoreError("the disk is full")))
    publisher = Publisher(catalog, PLAN, Policy(shards_ahead=3))
    with pytest.raises(StoreError, match="disk is full"), publisher:
        throttled = publisher.throttled(shards())
        slow = begin(publisher, next(throttled))
        begin(publisher, next(throttled)).succeed(row(1))
        eventually(lambda: bool(publisher.errors))
        monkeypatch.setattr(publishing, "publish", works)
        with pytest.raises(StoreError, match="disk is full"):
            next(throttled)
        slow.succeed(row(0))
    assert published(catalog) == uris(0)
    assert (publisher.published, publisher.commits) == (1, 1)


def test_when_a_commit_fails_shards_in_flight_ask_nothing_more(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "publish", refuse(StoreError("the disk is full")))
    with pytest.raises(StoreError, match="disk is full"), Publisher(catalog, PLAN, Policy()) as publisher:
        (shard,) = publisher.throttled(shards(1))
        assert not is_halted()
        begin(publisher, shard).succeed(row(0))
        eventually(is_halted)
    assert not is_halted()


def test_where_prefect_s_server_is_gone_shards_in_flight_are_finished(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = publishing.publish
    monkeypatch.setattr(publishing, "publish", refuse(ConnectionError("All connection attempts failed")))
    publisher = Publisher(catalog, PLAN, Policy(shards_ahead=3))
    with pytest.raises(ConnectionError), publisher:
        throttled = publisher.throttled(shards())
        slow = begin(publisher, next(throttled))
        begin(publisher, next(throttled)).succeed(row(1))
        eventually(lambda: bool(publisher.errors))
        assert not is_halted()
        monkeypatch.setattr(publishing, "publish", works)
        slow.succeed(row(0))
    assert published(catalog) == uris(0)


def test_what_a_shard_answered_before_its_error_is_published(catalog: Catalog) -> None:
    for k, error in enumerate([ModelError("no credit"), ValueError("a defect"), ShardSkipped("the run has ended")]):
        cut_short = row(k)
        cut_short.error = error
        publisher = Publisher(catalog, PLAN, Policy())
        with pytest.raises(RunStopped if k == 2 else type(error)), publisher:
            run_all(publisher, [cut_short])
        assert published(catalog) == uris(*range(k + 1))


def test_a_commit_s_error_is_raised_before_those_of_shards(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "publish", refuse(StoreError("the disk is full")))
    publisher = Publisher(catalog, PLAN, Policy(shards_ahead=1))
    with pytest.raises(StoreError, match="disk is full"), publisher:
        throttled = publisher.throttled(shards())
        begin(publisher, next(throttled)).fail(ValueError("a defect"))
        begin(publisher, next(throttled)).succeed(row(1))
    assert [type(error) for error in publisher.errors] == [StoreError, ValueError]


def test_what_ends_the_committing_thread_is_raised_and_nobody_waits_for_it(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "memory_budget", lambda *of: SimpleNamespace(fetched=2**30, rows=1))
    monkeypatch.setattr(publishing, "record_metrics", refuse(SystemExit(1)))
    publisher = Publisher(catalog, PLAN, Policy(shards_ahead=8))
    with pytest.raises(SystemExit), publisher:
        throttled = publisher.throttled(shards())
        for k, future in enumerate([begin(publisher, next(throttled)) for _ in range(8)]):
            future.succeed(row(k))
    assert published(catalog) == uris(0), "the group that was committed before"


def test_upkeep_that_fails_is_raised_when_everything_has_been_published(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "maintain", refuse(ValueError("a defect of the upkeep")))
    publisher = Publisher(catalog, PLAN, Policy(commit_rows=1, upkeep=Upkeep(compact_files=2)))
    with pytest.raises(ValueError, match="of the upkeep"), publisher:
        run_all(publisher, [row(k) for k in range(5)])
    assert published(catalog) == uris(*range(5))
