"""What is none of ours, what fails at the wrong moment, and what nobody thought of: the ledger still covers it."""

import json
import os
import threading
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.money import allowance as module
from sightflow.blocks.money import journal as journal_module
from sightflow.blocks.money import ledger as ledger_module
from sightflow.blocks.money.allowance import Allowance
from sightflow.blocks.money.balance import PER_DOLLAR, Balance, Block
from sightflow.blocks.money.journal import Journal, LeftAnswers, boot_id, journal_folder, left_journals
from sightflow.blocks.money.ledger import Ledger
from sightflow.blocks.money.recovery import recover
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreError, StoreRefusal
from sightflow.schemas.policy import Budget

NEVER = threading.Event()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.02)


def ledger(place: Path) -> Ledger:
    return Ledger(ObjectStore(), f"file://{place}/catalog")


def allowance(place: Path, run: str = "run", **more: Any) -> Allowance:
    return Allowance(ledger(place), Budget(run=1.0), run, place / "journals", **more)


def test_a_request_that_outlives_its_run_writes_into_no_other_file(tmp_path: Path) -> None:
    """The number of a file that was closed is given to the next that is opened."""
    one = allowance(tmp_path)
    with one:
        hold = one.reserve(0.1, NEVER)
    assert hold is not None
    one.close(published=False)
    others = [(tmp_path / f"other-{k}").open("wb") for k in range(20)]
    one.settle(hold, 0.05, "key", {"text": "an answer"})
    for each in others:
        each.close()
    assert [path.stat().st_size for path in tmp_path.glob("other-*")] == [0] * 20
    recover(ledger(tmp_path), tmp_path / "journals")
    assert ledger(tmp_path).balance().spent("run", "run").total == 0.1 * PER_DOLLAR, "at the most that it may cost"


def test_a_ledger_that_could_not_be_written_for_a_while_is_settled_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, spent = allowance(tmp_path), 0.04
    with one:
        one.settle(one.reserve(0.1, NEVER), spent)  # type: ignore[arg-type]

        def away(*_: object) -> bool:
            raise StoreError("the store does not answer")

        with monkeypatch.context() as patched:
            patched.setattr(ObjectStore, "create", away)
            with pytest.raises(StoreError, match="does not answer"):  # noqa: PT012 - whichever of them it is
                for _ in range(200):
                    hold = one.reserve(0.09, NEVER)
                    assert hold is not None
                    one.settle(hold, 0.05)
                    spent += 0.05
        one.close(published=False)
    found = ledger(tmp_path).balance()
    assert not found.blocks, "what it held is given back"
    assert found.used("run", "run") == round(spent * PER_DOLLAR)


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 200_000,
        b'{"sent": 1e999, "block": "b", "bound": 1}',
        b'{"settled": 1, "known": 1e999, "unknown": 0}',
        b'{"settled": 1, "known": -5000000000, "unknown": 0}',
        b'{"settled": 1, "known": 1' + b"0" * 30 + b', "unknown": 0}',
        b'{"settled": 1, "known": 1' + b"0" * 5000 + b', "unknown": 0}',
        b'{"settled": [], "known": {}, "unknown": null}',
        b"\x00" * 5_000,
        b"x" * 3_000_000,
    ],
)
def test_a_line_of_a_journal_that_is_none_of_ours_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes
) -> None:
    monkeypatch.setattr(journal_module, "_LINE_BYTES", 1_000_000, raising=False)
    journal = Journal(tmp_path / "journals", "run", False)
    block = f"{journal.id}-1"
    granted = Block(run="run", day="2026-11-27", holder="it", reserved=100)
    ledger(tmp_path).change(lambda balance: ("reserve", block, granted, True))
    journal.sent(1, block, 60)
    journal.leave()
    (path,) = (tmp_path / "journals").glob("*.journal")
    with path.open("ab") as file:
        file.write(line + b"\n")
        file.write(json.dumps({"settled": 9, "known": 1, "unknown": 0, "key": "k", "answer": {"a": 1}}).encode())
    recover(ledger(tmp_path), tmp_path / "journals")
    assert ledger(tmp_path).balance().spent("run", "run").unknown == 60, "it is under way for all that is known"
    answers = LeftAnswers(tmp_path / "journals", False)
    answers.look()
    assert answers.take("k") == {"a": 1}


def test_answers_of_another_spec_of_the_catalog_stay(tmp_path: Path) -> None:
    for asks in ("one", "two"):
        one = allowance(tmp_path, asks, asks=asks)
        with one:
            one.settle(one.reserve(0.1, NEVER), 0.01, f"key of {asks}", {"text": asks})  # type: ignore[arg-type]
        one.close(published=False)
    again = allowance(tmp_path, "again", asks="one")
    with again:
        pass
    again.close(published=True, everything=True)
    left = LeftAnswers(tmp_path / "journals", False)
    left.look()
    assert left.take("key of one") is None
    assert left.take("key of two") == {"text": "two"}


def test_of_many_journals_the_newest_are_read_and_all_go_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget that is met every night leaves one every night."""
    monkeypatch.setattr(journal_module, "_MOST_BYTES", 25_000, raising=False)
    for k in range(4):
        journal = Journal(tmp_path, f"night {k}", False)
        journal.settled(1, 1, 0, f"key {k}", {"text": "x" * 10_000})
        journal.close(keep_answers=True)
        long_ago = time.time() - 1000 * (4 - k)
        os.utime(tmp_path / f"{journal.id}.answers", (long_ago, long_ago))
    answers = LeftAnswers(tmp_path, False)
    answers.look()
    assert [answers.take(f"key {k}") is not None for k in range(4)] == [False, False, True, True]
    answers.forget()
    assert not list(tmp_path.glob("*.answers"))


def test_an_allowance_that_is_about_to_be_used_is_not_idle(tmp_path: Path) -> None:
    one = allowance(tmp_path)
    one._idle_since -= 1000
    assert one.idle_seconds > 900
    one.is_wanted()
    assert one.idle_seconds < 900
    one.close(published=True)


def test_a_run_is_not_forgotten_while_hundreds_of_small_ones_come_and_go() -> None:
    balance = Balance()
    for k in range(150):
        block = Block(run="long" if k == 0 else f"upload {k}", day="2026-11-27", holder="it", known=7)
        balance = balance.with_block(f"{k}", block, is_open=False)
    assert balance.used("run", "long") == 7


def test_what_machines_held_that_vanished_is_spent_and_does_not_pile_up() -> None:
    balance, day = Balance(), date(2026, 1, 1)
    for k in range(400):
        today = f"{day + timedelta(days=k)}"
        balance = balance.with_block(f"{k}", Block(run=f"{k}", day=today, holder="gone", known=1, reserved=4))
    assert len(balance.blocks) <= 71 and len(balance.runs) <= 300
    assert balance.used("month", "2026-11") == 30 * 5
    assert balance.used("month", "2026-10") == 31 * 5 == balance.spent("month", "2026-10").total
    assert balance.used("day", "2027-02-04") == 5, "of today it is held"


def test_a_file_in_the_ledger_that_is_no_entry_is_passed_over(tmp_path: Path) -> None:
    one = ledger(tmp_path)
    one.change(lambda _: ("settle", "a", Block(run="run", day="2026-11-27", holder="it", known=3), False))
    for name in ("\u00b2.json", "5.json", "1" * 30 + ".json", "notes.json"):
        (tmp_path / "catalog/ledger" / name).write_text("{}")
    assert ledger(tmp_path).balance().used("run", "run") == 3


def test_a_clock_that_was_set_back_is_not_gone_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = ledger(tmp_path)
    one.balance()
    now = time.time()
    monkeypatch.setattr(ledger_module.time, "time", lambda: now - 86_400.0)
    assert not one._is_trusted()


def test_where_there_is_no_home_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setenv("XDG_STATE_HOME", "state")  # which is no place at all
    with pytest.raises(StoreRefusal, match="set XDG_STATE_HOME"):
        journal_folder("s3://bucket/catalog")
    assert boot_id() == boot_id()
    assert not list(left_journals(Path(os.devnull).parent / "none"))
