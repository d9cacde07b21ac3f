"""The publisher, driven with futures made by hand and a real catalog: groups, bounds, listeners, stopping."""

# ruff: noqa: PT012 - it is leaving the publisher's block that raises

import threading
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.failure import Cause, Stage
from sightflow.schemas.policy import Policy, Upkeep
from sightflow.schemas.run.plan import RunPlan, Shard
from sightflow.tasks.runtime.cancellation import STOP, RunStopped, ShardSkipped
from sightflow.tasks.runtime.publisher import LISTENER, Publisher
from tests.tasks.runtime.hand_made import (
    PATIENT,
    PLAN,
    begin,
    eventually,
    failed,
    published,
    row,
    run_all,
    shards,
    uris,
)

pytestmark = pytest.mark.usefixtures("commits")


# --- committing in groups -----------------------------------------------------------------------------


def test_the_first_shard_is_committed_at_once_and_the_others_in_groups(catalog: Catalog, commits: list[int]) -> None:
    policy = Policy(commit_rows=3, commit_seconds=PATIENT)
    with Publisher(catalog, PLAN, policy) as publisher:
        run_all(publisher, [row(k) for k in range(9)])
    assert commits == [1, 3, 3, 2]
    assert published(catalog) == uris(*range(9))
    assert (publisher.published, publisher.commits, catalog.version()) == (9, 4, 4)


def test_a_group_that_is_not_full_is_committed_when_its_time_has_come(catalog: Catalog) -> None:
    with Publisher(catalog, PLAN, Policy(commit_rows=1000, commit_seconds=0.05)) as publisher:
        for k, shard in enumerate(publisher.throttled(shards(2))):
            begin(publisher, shard).succeed(row(k))
            eventually(lambda expected=k + 1: publisher.published == expected)


def test_what_was_done_is_added_up(catalog: Catalog) -> None:
    with Publisher(catalog, PLAN, Policy()) as publisher:
        run_all(publisher, [row(0), failed(1), failed(2)])
    assert (publisher.published, publisher.causes) == (1, {Cause.DECODE: 2})
    assert publisher.cost_usd == pytest.approx(0.75)
    stages = [span.stage for span in publisher.spans]
    assert stages.count(Stage.VALIDATE) == 3 and Stage.PUBLISH in stages
    assert publisher.elapsed_seconds > 0
    assert catalog.scan("quarantine").collect().height == 2


def test_a_failure_of_an_earlier_run_leaves_the_quarantine_with_its_row(catalog: Catalog) -> None:
    catalog.quarantine(pl.concat([failed(k).failed for k in range(3)]))
    with Publisher(catalog, PLAN, Policy()) as publisher:
        run_all(publisher, [row(1)])
    assert sorted(catalog.scan("quarantine").collect()["uri"]) == uris(0, 2)


def test_a_run_without_shards_commits_nothing(catalog: Catalog) -> None:
    with Publisher(catalog, PLAN, Policy()) as publisher:
        assert run_all(publisher, []) == 0
    assert (publisher.commits, catalog.version()) == (0, None)


def test_many_commits_are_compacted_on_the_way(catalog: Catalog) -> None:
    policy = Policy(commit_rows=1, upkeep=Upkeep(compact_files=3))
    with Publisher(catalog, PLAN, policy) as publisher:
        run_all(publisher, [row(k) for k in range(7)])
    joined = ["enrichments: 3 files joined into 1", "enrichments: 4 files joined into 1"]
    assert [result.summary for result in publisher.maintenance] == joined
    assert published(catalog) == uris(*range(7))


# --- bounds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ahead", "workers"), [(1, 1), (2, 2)])
def test_no_more_shards_are_in_flight_than_the_policy_allows_for_each_worker(
    catalog: Catalog, ahead: int, workers: int
) -> None:
    with Publisher(catalog, PLAN, Policy(shards_ahead=ahead), workers) as publisher:
        throttled = publisher.throttled(shards())
        futures = [begin(publisher, next(throttled)) for _ in range(ahead * workers)]
        more: list[Shard] = []
        waiting = threading.Thread(target=lambda: more.append(next(throttled)), daemon=True)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive() and not more
        futures[0].succeed(row(0))
        waiting.join(10)
        assert [shard.index for shard in more] == [ahead * workers]
        for k, future in enumerate([*futures[1:], begin(publisher, more[0])], start=1):
            future.succeed(row(k))
    assert publisher.published == ahead * workers + 1


# --- listeners --------------------------------------------------------------------------------------------


class Listening:
    """Remembers what it is told; raises at the turn it is given."""

    def __init__(self, error: BaseException | None = None, turn: str = "") -> None:
        self.error, self.turn = error, turn
        self.heard: list[tuple[Any, ...]] = []

    def planned(self, run_plan: RunPlan) -> None:
        self._hear("planned", run_plan)

    def advanced(self, published: int, quarantined: int) -> None:
        self._hear("advanced", published, quarantined)

    def _hear(self, turn: str, *told: Any) -> None:
        self.heard.append((turn, *told))
        if self.error and turn == self.turn:
            raise self.error


@pytest.fixture
def listen() -> Iterator[Callable[[Listening], Listening]]:
    tokens = []

    def listening(listener: Listening) -> Listening:
        tokens.append(LISTENER.set(listener))
        return listener

    yield listening
    for token in reversed(tokens):
        LISTENER.reset(token)


def test_a_listener_is_told_the_plan_and_every_commit(
    catalog: Catalog, listen: Callable[[Listening], Listening]
) -> None:
    listener = listen(Listening())
    with Publisher(catalog, PLAN, Policy(commit_rows=2, commit_seconds=PATIENT)) as publisher:
        run_all(publisher, [row(0), row(1), failed(2)])
    assert listener.heard == [("planned", PLAN), ("advanced", 1, 0), ("advanced", 1, 1)]


@pytest.mark.parametrize("turn", ["planned", "advanced"])
@pytest.mark.parametrize("error", [BrokenPipeError(), SystemExit(1)])
def test_a_listener_that_raises_is_dropped_and_costs_no_row(
    catalog: Catalog,
    listen: Callable[[Listening], Listening],
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    turn: str,
) -> None:
    listener = listen(Listening(error, turn))
    with Publisher(catalog, PLAN, Policy(commit_rows=1)) as publisher:
        run_all(publisher, [row(k) for k in range(3)])
    assert published(catalog) == uris(0, 1, 2)
    assert [heard[0] for heard in listener.heard] == ["planned", "advanced"][: 1 + (turn == "advanced")]
    assert f"Listening is told no more: {type(error).__name__}" in caplog.text


# --- stopping ---------------------------------------------------------------------------------------------


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    token = STOP.set(event)
    yield event
    STOP.reset(token)


def test_a_request_to_stop_begins_nothing_more_and_publishes_what_is_in_flight(
    catalog: Catalog, stop: threading.Event
) -> None:
    publisher = Publisher(catalog, PLAN, Policy(shards_ahead=3))
    with pytest.raises(RunStopped), publisher:
        throttled = publisher.throttled(shards())
        futures = [begin(publisher, next(throttled)) for _ in range(2)]
        stop.set()
        with pytest.raises(RunStopped):
            next(throttled)
        for k, future in enumerate(futures):
            future.succeed(row(k))
    assert published(catalog) == uris(0, 1)
    assert publisher.stopped_early and not publisher.errors


def test_a_shard_that_was_given_back_is_no_error_and_says_that_the_run_is_not_done(catalog: Catalog) -> None:
    publisher = Publisher(catalog, PLAN, Policy())
    with pytest.raises(RunStopped), publisher:
        run_all(publisher, [row(0), ShardSkipped("shard 1 was not begun"), row(2)])
    assert published(catalog) == uris(0, 2)
    assert publisher.stopped_early and not publisher.errors


def test_a_stop_that_comes_when_everything_has_begun_changes_nothing(catalog: Catalog, stop: threading.Event) -> None:
    with Publisher(catalog, PLAN, Policy()) as publisher:
        run_all(publisher, [row(0), row(1)])
        stop.set()
    assert published(catalog) == uris(0, 1) and not publisher.stopped_early
