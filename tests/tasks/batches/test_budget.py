"""A budget holds for what goes by batch: reserved before the vendor begins, settled by whoever collects it."""

from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.catalog.batch_log import BatchLog
from sightflow.blocks.models.engines.providers.batches.vendor_batches import VendorBatches
from sightflow.blocks.money import allowance as allowance_module
from sightflow.blocks.money.balance import PER_DOLLAR, Room
from sightflow.blocks.money.batch_holds import BatchHolds
from sightflow.schemas.failure import BudgetMet, ModelError
from sightflow.schemas.policy import Budget
from sightflow.schemas.tables.batches import BatchState
from sightflow.tasks.batches import budget as budget_module
from sightflow.tasks.batches import collection as collection_module
from sightflow.tasks.batches.cancel import cancel_batch
from sightflow.tasks.batches.poll import unsettled
from sightflow.tasks.open import open_catalog
from sightflow.tasks.runtime.spending import ledger_of
from tests.loopback.batches.service import EXPIRED
from tests.loopback.hosted_systems import GPT, perfect
from tests.loopback.server import Received, Say
from tests.tasks.batches.stages import (
    Books,
    collect,
    images,
    planned,
    processes_are_gone,
    run,
    spec_of,
    without_prefect,
)
from tests.tasks.batches.test_delivery import boxed
from tests.tasks.batches.test_kills import Killed, dies

DETECT = {"capability": "object detection", "name": "boxes", "labels": ["box"]}


@pytest.fixture(autouse=True)
def _without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    without_prefect(monkeypatch)


def plain(received: Received) -> Say:
    return Say("a plain image")


def held(spec: Any) -> int:
    return sum(block.reserved for block in ledger_of(spec).balance().blocks.values())


def states(spec: Any) -> list[BatchState]:
    return [batch.state for batch in BatchLog(open_catalog(spec)).batches()]


def bound_of_one(tmp_path: Path) -> float:
    """What one request may cost at most, US dollars, by what a batch of six of them holds."""
    with GPT.on_loopback(plain) as another:
        spec = spec_of(tmp_path, GPT.name, another.url, policy={"budget": {}}, catalog="probe")
        run(spec)
        return held(spec) / PER_DOLLAR / 6


def test_a_batch_is_cut_to_what_the_budget_allows_and_later_runs_do_the_rest(tmp_path: Path) -> None:
    images(tmp_path / "media", 6)
    with GPT.on_loopback(plain) as provider:
        bound = bound_of_one(tmp_path)
        spec = spec_of(tmp_path, GPT.name, provider.url, policy={"budget": {"day": 2.5 * bound}})
        books = Books(provider, GPT, spec)
        sizes = []
        while planned(spec).to_compute:
            with pytest.raises(BudgetMet, match=r"budget of the day is met.*it allows more from") as met:
                run(spec)
            sizes.append(held(spec))
            with pytest.raises(BudgetMet):
                run(spec)
            assert held(spec) == sizes[-1] <= 2.5 * bound * PER_DOLLAR, "what is held is not there twice"
            assert f"of ${2.5 * bound:.4g} are spent or held" in str(met.value)
            collect(spec)
            if planned(spec).to_compute == 2:
                break
        assert run(spec) == 2
        collect(spec)
        assert set(provider.answered.values()) == {1}
        books.end()
        assert not (tmp_path / "catalog" / "journals").exists(), "nothing of it is known to one machine alone"
    assert open_catalog(spec).scan("enrichments").collect().height == 6
    assert len(sizes) == 2 and sizes[0] == pytest.approx(2 * bound * PER_DOLLAR, rel=0.01)


def test_what_no_budget_of_this_size_allows_goes_to_the_quarantine(tmp_path: Path) -> None:
    images(tmp_path / "media", 6)
    with GPT.on_loopback(plain) as provider:
        bound = bound_of_one(tmp_path)
        spec = spec_of(tmp_path, GPT.name, provider.url, policy={"budget": {"run": 0.5 * bound}})
        assert run(spec) == 0
        assert states(spec) == []
    failed = open_catalog(spec).scan("quarantine").collect()
    assert failed["cause"].to_list() == ["budget"] * 6 and "policy.budget.run" in failed["message"][0]
    assert planned(spec).to_compute == 6


def test_what_others_have_taken_a_moment_ago_is_not_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path / "media", 6)
    with GPT.on_loopback(plain) as provider:
        bound = bound_of_one(tmp_path)
        spec = spec_of(tmp_path, GPT.name, provider.url, policy={"budget": {"month": 3.5 * bound}})
        room, stale = BatchHolds.room, [Room(10**21)]
        monkeypatch.setattr(BatchHolds, "room", lambda self, *args: stale.pop() if stale else room(self, *args))
        with pytest.raises(BudgetMet):
            run(spec)
        assert sorted(states(spec)) == [BatchState.ABANDONED, BatchState.SUBMITTED]
        assert held(spec) == pytest.approx(3 * bound * PER_DOLLAR, rel=0.01)


def test_a_batch_that_never_began_gives_everything_back_also_when_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(tmp_path / "media", 6)
    with GPT.on_loopback(plain) as provider:
        spec = spec_of(tmp_path, GPT.name, provider.url, policy={"budget": {"day": 1}})
        with monkeypatch.context() as patched:
            dies(VendorBatches, "upload", after=True)(patched)
            with pytest.raises(Killed):
                run(spec)
        assert held(spec) > 0
        processes_are_gone(monkeypatch)
        with monkeypatch.context() as patched:
            dies(BatchLog, "advance", after=True, of=BatchState.ABANDONED)(patched)
            with pytest.raises(Killed):
                collect(spec)
        assert states(spec) == [BatchState.ABANDONED] and held(spec) > 0
        collect(spec)
        assert held(spec) == 0
        monkeypatch.setattr(VendorBatches, "upload", lambda *_: (_ for _ in ()).throw(ModelError("it is down")))
        with pytest.raises(ModelError, match="it is down"):
            run(spec)
        assert held(spec) == 0 and states(spec) == [BatchState.ABANDONED] * 2
        Books(provider, GPT, spec).end()


def test_a_batch_of_which_nobody_knows_what_it_cost_counts_at_the_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(tmp_path / "media", 3)
    with GPT.on_loopback(plain) as provider:
        spec = spec_of(tmp_path, GPT.name, provider.url, policy={"budget": {}})
        run(spec)
        (most,) = [block.reserved for block in ledger_of(spec).balance().blocks.values()]
        (batch,) = unsettled(open_catalog(spec))
        provider.batches.jobs.clear()
        with monkeypatch.context() as patched:
            dies(budget_module.BatchHolds, "settle_as_unknown")(patched)
            with pytest.raises(Killed):
                cancel_batch(open_catalog(spec), batch, spec)
        assert states(spec) == [BatchState.CLOSED] and held(spec) == most
        collect(spec)
        balance = ledger_of(spec).balance()
        assert balance.blocks == {} and [each.unknown for each in balance.days.values()] == [most]


def test_lines_that_cannot_be_read_and_files_that_are_lost_count_at_the_most(tmp_path: Path) -> None:
    images(tmp_path / "media", 4)
    with GPT.on_loopback(plain) as provider:
        spec = spec_of(tmp_path, GPT.name, provider.url, policy={"budget": {}})
        books = Books(provider, GPT, spec)
        provider.batches.tampered = lambda lines: [lines[0][:40] + b"\n", *lines[1:]]
        run(spec)
        of_one = held(spec) // 4
        collect(spec)
        spent = ledger_of(spec).balance().days.popitem()[1]
        assert spent.known == round(books.charged * 3 / 4) and spent.unknown == pytest.approx(of_one, rel=0.01)
        provider.batches.tampered = lambda lines: lines
        run(spec)
        (job,) = [job for job in provider.batches.jobs.values() if job.state == "running"]
        provider.batches.finish(job)
        provider.batches.files.pop(job.results[0])
        collect(spec)
        assert ledger_of(spec).balance().days.popitem()[1].unknown == pytest.approx(2 * of_one, rel=0.01)
        books.look()
        assert books.wrong == []


def test_what_expired_has_cost_nothing_and_errors_neither(tmp_path: Path) -> None:
    images(tmp_path / "media", 6)

    def behave(received: Received) -> Say:
        return Say("", "empty") if received.images[0].getpixel((0, 0))[1] == 1 else Say("plain")

    with GPT.on_loopback(behave) as provider:
        spec = spec_of(tmp_path, GPT.name, provider.url, policy={"budget": {"run": 1}})
        provider.batches.share, provider.batches.ends = 0.5, EXPIRED
        run(spec)
        collect(spec)
        Books(provider, GPT, spec).end()


def test_the_repair_of_a_reply_is_a_direct_request_within_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowance_module, "_PATIENCE_SECONDS", 0.2)
    boxed(tmp_path / "media", 2)
    well = perfect(GPT)
    with GPT.on_loopback(lambda received: well(received) if received.is_repair else Say("I see a box.")) as provider:
        spec = spec_of(tmp_path, GPT.name, provider.url, [DETECT], {"budget": {"day": 1}})
        books = Books(provider, GPT, spec)
        run(spec)
        most = held(spec)
        bill = provider.bill

        def billed(request: Received, said: Say) -> tuple[int, int]:
            counted = bill(request, said)
            if request.is_repair:
                books.direct.update(input=counted[0], output=counted[1])
            return counted

        provider.bill = billed  # type: ignore[method-assign]
        (outcome,) = collect(spec).outcomes
        assert (outcome.repaired, outcome.published) == (2, 2)
        books.end()
        assert {"run", "collect"} == set(ledger_of(spec).balance().runs)
        tight = spec_of(
            tmp_path, GPT.name, provider.url, [DETECT], {"budget": {"day": 5 * most / PER_DOLLAR}}, catalog="tight"
        )
        run(tight)
        others = 4 * most
        holds = BatchHolds(ledger_of(tight))
        holds.reserve("0" * 32, "another batch", Budget(day=1), "another run", others)
        asked = len(provider.received)
        (outcome,) = collect(tight).outcomes
        assert (outcome.published, outcome.quarantined, outcome.repaired) == (0, 2, 0)
        assert "2 unreadable replies are not asked again: the budget of the day is met" in outcome.note
        assert len(provider.received) == asked, "nothing is asked again"
        assert held(tight) == 0, "what nobody has recorded counts as spent"


def test_a_repair_that_was_paid_for_and_not_published_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxed(tmp_path / "media", 2)
    well = perfect(GPT)
    with GPT.on_loopback(lambda received: well(received) if received.is_repair else Say("I see a box.")) as provider:
        spec = spec_of(tmp_path, GPT.name, provider.url, [DETECT], {"budget": {"day": 1}})
        run(spec)
        with monkeypatch.context() as patched:
            dies(collection_module, "publish")(patched)
            with pytest.raises(Killed):
                collect(spec)
        processes_are_gone(monkeypatch)
        (outcome,) = collect(spec).outcomes
        assert (outcome.published, sum(received.is_repair for received in provider.received)) == (2, 2)
