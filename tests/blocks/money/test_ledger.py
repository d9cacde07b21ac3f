"""Of many writers of one ledger none overwrites another, on any kind of storage; what cannot be read stops all."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.money import ledger as module
from sightflow.blocks.money.balance import Balance, Block
from sightflow.blocks.money.ledger import Change, Ledger
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreError
from tests.clouds import Cloud

DAY = "2026-11-27"


def spend(ledger: Ledger, name: str, amount: int = 7, day: str = DAY) -> None:
    """Settle an amount by a block of its own, as two entries."""
    block = Block(run="run", day=day, holder="here", reserved=2 * amount)
    ledger.change(lambda _: ("reserve", name, block, True))
    ledger.change(lambda _: ("settle", name, block.model_copy(update={"known": amount, "reserved": 0}), False))


def check_four_writers_at_once(store: ObjectStore, uri: str) -> None:
    ledgers = [Ledger(store, uri) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: [spend(ledgers[k], f"{k}-{n}") for n in range(6)], range(4)))
    balance = Ledger(store, uri).balance()
    assert balance.spent("run", "run").total == 4 * 6 * 7 == balance.used("day", DAY) == balance.used("month", DAY[:7])
    assert not balance.blocks
    numbers = [int(each.rpartition("/")[2][:-5]) for each in store.list_prefix(f"{uri}/ledger/") if "json" in each]
    assert sorted(numbers) == list(range(1, 4 * 6 * 2 + 1)), "each entry is the next one"


def test_four_writers_at_once_in_a_folder(tmp_path: Path) -> None:
    check_four_writers_at_once(ObjectStore(), f"file://{tmp_path}/catalog")


def test_four_writers_at_once_in_s3(bucket: Any) -> None:
    check_four_writers_at_once(ObjectStore(endpoint_url=bucket.endpoint), f"s3://{bucket.name}/catalog")


def test_four_writers_at_once_in_other_clouds(cloud: Cloud) -> None:
    check_four_writers_at_once(cloud.store(), cloud.uri("catalog"))


def test_a_write_whose_answer_was_lost_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries again, and is told that the object is there: it is its own."""
    store, create = ObjectStore(), ObjectStore.create
    ledger = Ledger(store, f"file://{tmp_path}/catalog")
    monkeypatch.setattr(ObjectStore, "create", lambda self, uri, content: create(self, uri, content) and False)
    spend(ledger, "a")
    monkeypatch.undo()
    assert Ledger(store, f"file://{tmp_path}/catalog").balance().spent("run", "run").total == 7


def test_what_is_decided_is_decided_on_what_counts_now(tmp_path: Path) -> None:
    one, two = (Ledger(ObjectStore(), f"file://{tmp_path}/catalog") for _ in range(2))
    spend(one, "a")
    two.balance()
    spend(one, "b")
    seen: list[int] = []

    def decide(balance: Balance) -> Change | None:
        seen.append(balance.spent("run", "run").total)
        return "settle", "c", Block(run="run", day=DAY, holder="there", known=1), False

    two.change(decide)
    assert seen[0] == 7 and seen[-1] == 14, "first by what was known, at last by what the store has"
    assert one.balance().spent("run", "run").total == 15


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"number": 3}', b"9" * 5000])
def test_what_is_no_entry_stops_everything_with_advice(tmp_path: Path, content: bytes) -> None:
    ledger = Ledger(ObjectStore(), f"file://{tmp_path}/catalog")
    spend(ledger, "a")
    (tmp_path / "catalog/ledger" / f"{2:020d}.json").write_bytes(content)
    with pytest.raises(StoreError, match="is no entry of a ledger: bring it back"):
        Ledger(ObjectStore(), f"file://{tmp_path}/catalog").balance()


def test_a_reader_finds_the_newest_by_the_note_by_the_listing_and_by_trying(tmp_path: Path) -> None:
    uri, folder = f"file://{tmp_path}/catalog", tmp_path / "catalog/ledger"
    for k in range(10):  # 20 entries; the note is of the sixteenth
        spend(Ledger(ObjectStore(), uri), str(k))
    for note in (None, b"16", b"3", b"77", b"nonsense", b""):
        if note is None:
            (folder / "newest").unlink()
        else:
            (folder / "newest").write_bytes(note)
        assert Ledger(ObjectStore(), uri).balance().spent("run", "run").total == 70, note
    for k in range(1, 12):
        (folder / f"{k:020d}.json").unlink()
    (folder / "newest").unlink()
    assert Ledger(ObjectStore(), uri).balance().spent("run", "run").total == 70


def test_entries_of_more_than_a_week_ago_go_and_sums_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, folder = f"file://{tmp_path}/catalog", tmp_path / "catalog/ledger"
    today = datetime(2026, 11, 20, 12, tzinfo=UTC)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return today

    monkeypatch.setattr(module, "datetime", Clock)
    ledger = Ledger(ObjectStore(), uri)
    for k in range(10):
        today = datetime(2026, 11, 20, 12, tzinfo=UTC) + timedelta(days=k)
        spend(ledger, str(k), day=f"{today:%Y-%m-%d}")
    numbers = sorted(int(path.stem) for path in folder.glob("*.json"))
    assert numbers == list(range(7, 21)), "of the last seven days"
    again = Ledger(ObjectStore(), uri).balance()
    assert again.spent("month", "2026-11").total == 70 and again.spent("day", "2026-11-20").total == 7
