"""What batches hold stands beside what processes spend: together they never pass the budget, and nothing waits."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from sightflow.blocks.money.balance import PER_DOLLAR
from sightflow.blocks.money.batch_holds import BatchHolds
from sightflow.blocks.money.ledger import Ledger
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import BudgetMet, RequestTooExpensive
from sightflow.schemas.policy import Budget
from tests.blocks.money.test_allowance import Meter, Opener, _impatient, ask, balance, opened

__all__ = ["_impatient", "opened"]  # fixtures


def holds_in(tmp_path: Path, now: datetime = datetime(2026, 11, 30, 12, tzinfo=UTC)) -> BatchHolds:
    return BatchHolds(Ledger(ObjectStore(), f"file://{tmp_path}/catalog"), lambda: now)


def test_what_batches_hold_is_left_alone_and_the_rest_is_used(tmp_path: Path, opened: Opener) -> None:
    budget, meter = Budget(run=1.0, day=1.0), Meter(0.5)
    holds = BatchHolds(Ledger(ObjectStore(), f"file://{tmp_path}/catalog"))
    for number in range(10):
        holds.reserve(f"{number}", "a batch", budget, "run", PER_DOLLAR // 20)
    allowance = opened(budget)
    with allowance, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ask(allowance, meter, 0.01, 0.008), range(80)))
    assert meter.charged >= 0.95 * 0.5 * PER_DOLLAR
    allowance.close(published=True)
    with pytest.raises(BudgetMet, match="budget of the run is met"):
        holds.reserve("10", "a batch", budget, "run", PER_DOLLAR // 20)
    for number in range(10):
        holds.settle(f"{number}", 0.001)
    after = balance(tmp_path)
    assert after.blocks == {} and after.runs["run"].known == meter.charged + PER_DOLLAR // 100


def test_one_batch_is_reserved_once_and_settled_once_whoever_does_it(tmp_path: Path) -> None:
    budget = Budget(day=1)

    def work(_: int) -> None:
        holds = holds_in(tmp_path)
        holds.reserve("a", "a batch", budget, "run", PER_DOLLAR // 2)
        holds.settle("b", 0.3, 7)

    holds_in(tmp_path).reserve("b", "a batch", budget, "run", PER_DOLLAR // 2)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    after = holds_in(tmp_path)
    assert after.held() == {"a"}
    day = balance(tmp_path).days["2026-11-30"]
    assert (day.known, day.unknown) == (3 * PER_DOLLAR // 10, 7)


def test_it_counts_on_the_day_of_the_reservation(tmp_path: Path) -> None:
    budget = Budget(month=1)
    holds_in(tmp_path).reserve("a", "a batch", budget, "run", PER_DOLLAR)
    next_month = holds_in(tmp_path, datetime(2026, 12, 1, tzinfo=UTC))
    next_month.reserve("b", "a batch", budget, "run", PER_DOLLAR)
    next_month.settle("a", 0.5)
    known = {name: spent.known for name, spent in balance(tmp_path).months.items()}
    assert known == {"2026-11": PER_DOLLAR // 2, "2026-12": 0}
    assert next_month.held() == {"b"}
    with pytest.raises(RequestTooExpensive, match=r"more than policy.budget.month"):
        next_month.check(budget, "run", PER_DOLLAR + 1)


@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.floats(0, 1), st.sampled_from(["settled", "unknown", "open"])), max_size=12
    )
)
@examples(max_examples=15, deadline=None)
def test_no_order_of_batches_passes_the_budget_and_all_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[int, float, str]]
) -> None:
    folder, budget, charged = tmp_path_factory.mktemp("ledger"), Budget(day=100 / PER_DOLLAR), 0
    holds = holds_in(folder)
    for number, (amount, share, ends) in enumerate(batches):
        try:
            holds.reserve(f"{number}", "a batch", budget, "run", amount)
        except BudgetMet:
            assert balance(folder).used("day", "2026-11-30") + amount > 100
            continue
        if ends == "settled":
            charged += (cost := round(amount * share))
            holds.settle(f"{number}", cost / PER_DOLLAR)
        else:
            charged += amount
            if ends == "unknown":
                holds.settle_as_unknown(f"{number}")
        assert balance(folder).used("day", "2026-11-30") == charged <= 100
