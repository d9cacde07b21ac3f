"""A process that is killed has spent what its journal says: to the cent where it was answered, at most where not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sightflow.blocks.money import journal as module
from sightflow.blocks.money.allowance import Allowance
from sightflow.blocks.money.balance import Balance
from sightflow.blocks.money.journal import Journal, LeftAnswers, journal_folder, left_journals
from sightflow.blocks.money.ledger import Ledger
from sightflow.blocks.money.recovery import recover
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.policy import Budget

NEVER = threading.Event()
SPENDER = """
import sys, threading, time
from pathlib import Path
from sightflow.blocks.money.allowance import Allowance
from sightflow.blocks.money.ledger import Ledger
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.policy import Budget

place, never = Path(sys.argv[1]), threading.Event()
allowance = Allowance(Ledger(ObjectStore(), f"file://{place}/catalog"), Budget(day=1.0), "killed", place / "journals")
with allowance:
    for k in range(20):
        allowance.settle(allowance.reserve(0.01, never), 0.004, f"key {k}", {"text": f"answer {k}"})
    allowance.settle(allowance.reserve(0.01, never), None)
    holds = [allowance.reserve(0.02, never) for _ in range(3)]
    print("under way", flush=True)
    time.sleep(600)
"""


def ledger(place: Path) -> Ledger:
    return Ledger(ObjectStore(), f"file://{place}/catalog")


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The place of a process that was killed with three requests under way."""
    place = tmp_path_factory.mktemp("killed")
    with subprocess.Popen([sys.executable, "-c", SPENDER, str(place)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"under way\n"
        recover(ledger(place), place / "journals")
        assert ledger(place).balance().blocks, "it lives, and nobody settles for it"
        process.send_signal(signal.SIGKILL)
    return place


@pytest.fixture
def killed(left: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(left, tmp_path, dirs_exist_ok=True)
    return tmp_path


def spent(balance: Balance) -> tuple[float, float]:
    run = balance.spent("run", "killed")
    return run.known / 1e9, run.unknown / 1e9


def test_what_was_answered_is_settled_to_the_cent_and_what_was_under_way_at_most(killed: Path) -> None:
    before = ledger(killed).balance()
    assert before.used("run", "killed") >= (20 * 0.004 + 0.07) * 1e9, "until then all that it held counts"
    recover(ledger(killed), killed / "journals")
    recover(ledger(killed), killed / "journals")
    found = ledger(killed).balance()
    assert spent(found) == (0.08, 0.07) and not found.blocks


def test_its_answers_are_given_once_each_and_not_to_who_asks_anew(killed: Path) -> None:
    recover(ledger(killed), killed / "journals")
    answers, anew = (LeftAnswers(killed / "journals", anew) for anew in (False, True))
    for each in (answers, anew):
        each.look()
        each.look()
    assert anew.take("key 3") is None
    assert answers.take("key 3") == {"text": "answer 3"}
    assert answers.take("key 3") is None and answers.take("key 99") is None
    answers.forget()
    assert [path.name for path in (killed / "journals").iterdir()] == ["lock"]


def test_a_line_that_was_cut_short_counts_as_a_request_under_way(killed: Path) -> None:
    (path,) = (killed / "journals").glob("*.journal")
    lines = path.read_bytes().splitlines(keepends=True)
    last = max(k for k, line in enumerate(lines) if b"answer 19" in line)
    path.write_bytes(b"".join(lines[:last]) + lines[last][:40] + b"\n" + b"".join(lines[last + 1 :]))
    recover(ledger(killed), killed / "journals")
    known, unknown = spent(ledger(killed).balance())
    assert 0.0759 < known <= 0.08 and unknown == pytest.approx(0.08), "of what the ledger had not heard of yet"


def test_after_the_machine_has_died_nothing_is_concluded_from_what_a_journal_lacks(
    killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = ledger(killed).balance().used("run", "killed") / 1e9
    monkeypatch.setattr(module, "boot_id", lambda: "another start of the machine")
    recover(ledger(killed), killed / "journals")
    assert ledger(killed).balance().blocks, "the machine it is of may live"
    (path,) = (killed / "journals").glob("*.journal")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(path, (long_ago, long_ago))
    recover(ledger(killed), killed / "journals")
    known, unknown = spent(ledger(killed).balance())
    assert known == 0.08 and known + unknown == pytest.approx(held)


def test_answers_that_nobody_asks_for_go(killed: Path) -> None:
    recover(ledger(killed), killed / "journals")
    (path,) = (killed / "journals").glob("*.answers")
    old = time.time() - module.KEPT_SECONDS - 60
    os.utime(path, (old, old))
    answers = LeftAnswers(killed / "journals", False)
    answers.look()
    assert answers.take("key 3") is None and not path.exists()


def test_a_journal_is_whole_after_a_disk_was_full_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, write, calls = Journal(tmp_path, "run", False), os.write, 0

    def short(file: int, content: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return write(file, content[:9])
        raise OSError(28, "No space left on device")

    journal.sent(1, f"{journal.id}-1", 5)
    monkeypatch.setattr(module.os, "write", short)
    with pytest.raises(Exception, match="No space left"):
        journal.settled(1, 3, 0, "", None)
    monkeypatch.undo()
    journal.sent(2, f"{journal.id}-1", 7)
    journal.leave()
    (left,) = left_journals(tmp_path)
    assert left.accounts[f"{journal.id}-1"].under_way == {1: 5, 2: 7}


def test_a_journal_can_be_read_by_its_user_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journals", "run", False)
    (path,) = (tmp_path / "journals").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    assert json.loads(path.read_text().split("\n")[1])["run"] == "run"
    journal.close(keep_answers=False)
    assert not list((tmp_path / "journals").iterdir())


def test_journals_lie_beside_the_catalog_or_with_the_state_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert journal_folder("file:///data/catalog") == Path("/data/catalog/journals")
    one, two = journal_folder("s3://bucket/one"), journal_folder("s3://bucket/two")
    assert one != two and one.parent == two.parent == tmp_path / "sightflow" / "journals"


def test_a_run_uses_what_the_killed_one_was_answered(killed: Path) -> None:
    allowance = Allowance(ledger(killed), Budget(day=1.0), "next", killed / "journals")
    with allowance:
        assert allowance.answered("key 0") == {"text": "answer 0"}
        assert spent(ledger(killed).balance()) == (0.08, 0.07), "the dead are settled first"
    allowance.close(published=True, everything=True)
    assert [path.name for path in (killed / "journals").iterdir()] == ["lock"]
