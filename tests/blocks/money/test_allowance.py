"""What is spent never passes the budget, whatever requests cost, and nearly all of it can be used."""

import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from sightflow.blocks.money import allowance as module
from sightflow.blocks.money.allowance import Allowance
from sightflow.blocks.money.balance import PER_DOLLAR, Balance
from sightflow.blocks.money.ledger import Ledger
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import BudgetMet, RequestTooExpensive, StoreRefusal
from sightflow.schemas.policy import Budget

NEVER = threading.Event()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_POLL_SECONDS", 0.02), ("_IDLE_SECONDS", 0.1), ("_PATIENCE_SECONDS", 0.3)):
        monkeypatch.setattr(module, name, value)


Opener = Callable[..., Allowance]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Allowances as processes have them, each with a ledger of its own."""
    made: list[Allowance] = []

    def open_one(budget: Budget, run: str = "run", **more: Any) -> Allowance:
        ledger = Ledger(ObjectStore(), f"file://{tmp_path}/catalog")
        made.append(Allowance(ledger, budget, run, tmp_path / "journals", **more))
        return made[-1]

    yield open_one
    for each in made:
        if not each._closing:
            each.close(published=True)


def balance(tmp_path: Path) -> Balance:
    return Ledger(ObjectStore(), f"file://{tmp_path}/catalog").balance()


class Meter:
    """What a provider charges; never more than it may, at any moment."""

    def __init__(self, cap: float) -> None:
        self.cap, self.charged, self.lock = round(cap * PER_DOLLAR), 0, threading.Lock()

    def charge(self, usd: float) -> None:
        with self.lock:
            self.charged += round(usd * PER_DOLLAR)
            assert self.charged <= self.cap, "the meter passes the cap"


def ask(allowance: Allowance, meter: Meter, bound: float, actual: float | None) -> bool:
    """One request that costs so much, or that is charged and whose answer is lost; whether it was sent."""
    try:
        hold = allowance.reserve(bound, NEVER)
    except BudgetMet:
        return False
    assert hold is not None
    meter.charge(bound if actual is None else actual)
    allowance.settle(hold, actual)
    return True


@pytest.mark.parametrize("looseness", [1.0, 1.3, 8.0])
def test_three_processes_use_the_budget_up_to_a_few_requests_and_not_beyond(
    tmp_path: Path, opened: Opener, looseness: float
) -> None:
    meter, chance = Meter(1.0), random.Random(5)
    processes = [opened(Budget(day=1.0), f"run {k}") for k in range(3)]
    costs = [chance.uniform(0.0005, 0.0015) for _ in range(2400)]

    def work(k: int) -> int:
        with processes[k] as allowance, ThreadPoolExecutor(7) as pool:
            sent = list(pool.map(lambda cost: ask(allowance, meter, cost * looseness, cost), costs[k::3]))
        allowance.close(published=True)
        return sum(sent)

    with ThreadPoolExecutor(3) as pool:
        sent = sum(pool.map(work, range(3)))
    assert 0 < sent < len(costs), "half of them"
    assert meter.charged >= 0.95 * meter.cap
    found = balance(tmp_path)
    (day,) = found.days.values()
    assert day.known == meter.charged and not day.unknown, "to the nanodollar"
    assert not found.blocks
    assert sum(each.known for each in found.runs.values()) == meter.charged
    assert [path.name for path in (tmp_path / "journals").iterdir()] == ["lock"]


@given(st.lists(st.tuples(st.floats(1e-6, 0.3), st.one_of(st.none(), st.floats(0, 1))), max_size=30))
@examples(max_examples=25)
def test_whatever_requests_cost_and_however_many_are_lost_the_ledger_covers_it(asked: list[Any]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        ledger = Ledger(ObjectStore(), f"file://{place}/catalog")
        allowance, meter = Allowance(ledger, Budget(run=1.0), "run", Path(place)), Meter(1.0)
        for bound, share in asked:
            ask(allowance, meter, bound, None if share is None else bound * share)
        allowance.close(published=True)
        spent = ledger.balance().spent("run", "run")
        assert meter.charged <= spent.total + len(asked)  # rounded up and down, each to a nanodollar
        assert spent.total <= PER_DOLLAR


def test_a_budget_that_is_met_says_which_how_much_and_when_it_allows_more(opened: Opener) -> None:
    clock = datetime(2026, 12, 31, 23, 0, tzinfo=UTC)
    allowance = opened(Budget(run=5, day=1.0, month=1.5), now=lambda: clock)
    with allowance:
        allowance.settle(allowance.reserve(0.9, NEVER), 0.9)  # type: ignore[arg-type]
        with pytest.raises(BudgetMet, match=r"budget of the day is met: \$0.9 of \$1.00 .* from 2027-01-01 00:00 UTC"):
            allowance.reserve(0.2, NEVER)
        assert allowance.reserve(0.1, NEVER) is not None, "what is small enough is still sent"


def test_what_is_spent_counts_in_the_day_and_month_of_its_reservation(tmp_path: Path, opened: Opener) -> None:
    clock = [datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)]
    allowance = opened(Budget(day=1.0, month=1.2), now=lambda: clock[0])
    with allowance:
        before = allowance.reserve(0.9, NEVER)
        clock[0] = datetime(2026, 12, 1, 0, 0, 1, tzinfo=UTC)
        after = allowance.reserve(0.9, NEVER)
        assert before and after
        allowance.settle(before, 0.9)
        allowance.settle(after, 0.8)
    allowance.close(published=True)
    found = balance(tmp_path)
    assert {name: spent.known for name, spent in found.days.items()} == {
        "2026-11-30": 900_000_000,
        "2026-12-01": 800_000_000,
    }
    assert found.spent("month", "2026-12").known == 800_000_000


def test_one_request_that_is_larger_than_the_whole_budget_is_told_so(opened: Opener) -> None:
    with (
        opened(Budget(run=1.0, month=0.5)) as allowance,
        pytest.raises(RequestTooExpensive, match=r"\$0.6, which is more than policy.budget.month, \$0.5"),
    ):
        allowance.reserve(0.6, NEVER)


def test_what_one_process_holds_is_waited_for_and_not_spent_by_another(opened: Opener) -> None:
    one, two = opened(Budget(day=1.0), "one"), opened(Budget(day=1.0), "two")
    with one, two, ThreadPoolExecutor(1) as pool:
        held = one.reserve(0.8, NEVER)
        waiting = pool.submit(two.reserve, 0.5, NEVER)
        assert held is not None
        one.settle(held, 0.1)
        one.close(published=True)
        assert waiting.result(timeout=30) is not None


def test_a_process_with_nothing_to_ask_gives_back_what_it_holds(tmp_path: Path, opened: Opener) -> None:
    allowance = opened(Budget(day=1.0))
    with allowance:
        allowance.settle(allowance.reserve(0.01, NEVER), 0.01)  # type: ignore[arg-type]
    given_back = threading.Event()
    for _ in range(300):
        if not balance(tmp_path).blocks:
            given_back.set()
            break
        given_back.wait(0.05)
    assert given_back.is_set()
    with allowance:
        assert allowance.reserve(0.9, NEVER) is not None, "and takes anew"


def test_nothing_is_taken_of_what_is_being_given_back(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowance, create = opened(Budget(day=1.0)), ObjectStore.create
    giving, go_on, given_back = threading.Event(), threading.Event(), threading.Event()

    def slow(self: ObjectStore, uri: str, content: bytes) -> bool:
        if json.loads(content)["block"]["reserved"]:
            return create(self, uri, content)
        giving.set()
        go_on.wait(30)
        written = create(self, uri, content)
        given_back.set()
        return written

    monkeypatch.setattr(ObjectStore, "create", slow)
    with allowance:
        allowance.settle(allowance.reserve(0.01, NEVER), 0.01)  # type: ignore[arg-type]
    assert giving.wait(30), "idle, it gives back"
    with allowance, ThreadPoolExecutor(1) as pool:
        taken = pool.submit(allowance.reserve, 0.01, NEVER)
        wait([taken], timeout=0.3)
        go_on.set()
        assert given_back.wait(30)
        assert taken.result(timeout=30) is not None
        assert balance(tmp_path).used("run", "run") >= 0.02 * PER_DOLLAR, "what was sent is covered"


def test_without_a_bound_everything_is_counted(tmp_path: Path, opened: Opener) -> None:
    allowance = opened(Budget())
    with allowance:
        for _ in range(5):
            allowance.settle(allowance.reserve(100, NEVER), 90)  # type: ignore[arg-type]
    allowance.close(published=True)
    assert balance(tmp_path).spent("run", "run").known == 450 * PER_DOLLAR


def test_a_stop_ends_the_waiting(opened: Opener) -> None:
    one, two = opened(Budget(day=1.0), "one"), opened(Budget(day=1.0), "two")
    stop = threading.Event()
    with one, two, ThreadPoolExecutor(1) as pool:
        assert one.reserve(0.8, NEVER)
        waiting = pool.submit(two.reserve, 0.5, stop)
        stop.set()
        assert waiting.result(timeout=30) is None


def test_a_journal_that_cannot_be_written_lets_nothing_be_sent(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    allowance = opened(Budget(day=1.0))
    with allowance:
        first = allowance.reserve(0.1, NEVER)

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("sightflow.blocks.money.journal.os.write", full)
        with pytest.raises(StoreRefusal, match=r"journal of paid requests cannot be written .* No space left"):
            allowance.reserve(0.1, NEVER)
        assert first is not None
        allowance.settle(first, 0.05)  # its answer is not lost for that
        with pytest.raises(StoreRefusal):
            allowance.reserve(0.1, NEVER)
