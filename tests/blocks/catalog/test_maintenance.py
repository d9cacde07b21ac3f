"""Upkeep leaves every row as it was, whoever writes meanwhile and wherever it is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sightflow.blocks.catalog.catalog import TABLES, Catalog, TableName
from sightflow.blocks.catalog.data_files import DataFiles
from sightflow.blocks.catalog.labels import Labels, label_of_row
from sightflow.blocks.catalog.maintenance import maintain, retention_days
from sightflow.schemas.failure import StoreError
from sightflow.schemas.policy import Upkeep
from sightflow.schemas.tables.runs import RUNS_SCHEMA
from tests.blocks.catalog.test_catalog import cases, rows
from tests.schemas.tables.test_catalog import caption

DUE = Upkeep(compact_files=5)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(uri=f"file://{tmp_path}/a folder with spaces, ü and 100%")


def fill(catalog: Catalog, commits: int) -> None:
    """Some commits of each table, with rows that are replaced and cases that are settled."""
    for k in range(commits):
        catalog.publish(pl.concat([rows(range(k * 3, k * 3 + 3)), rows(range(k), str(k), enrichment="other")]))
        catalog.quarantine(cases(range(k * 2, k * 2 + 2)))
        catalog.record_run(pl.DataFrame([{"run_id": str(k)}], schema=RUNS_SCHEMA))
        Labels(catalog).save(label_of_row(caption(), {"text": str(k)}, "ann"), k)
        Labels(catalog).save(label_of_row(caption(uri=f"s3://b/{k}"), {"text": str(k)}, "ann"), 0)
    catalog.resolve(pl.DataFrame({"uri": ["s3://b/0003.jpg"], "enrichment": ["caption"]}))


def content(catalog: Catalog, name: TableName, version: int | None = None) -> pl.DataFrame:
    frame = catalog.scan(name, version).collect()
    return frame.sort([column for column in ("uri", "enrichment", "revision", "run_id") if column in frame.columns])


def files(catalog: Catalog, name: TableName) -> int:
    return len(catalog.table(name).file_uris())


def versions(catalog: Catalog) -> list[int | None]:
    return [catalog.version(name) for name in TABLES]


def test_few_files_with_the_same_rows_and_the_second_time_no_commit(catalog: Catalog) -> None:
    fill(catalog, 6)
    before = {name: content(catalog, name) for name in TABLES}
    past = {name: {v: content(catalog, name, v) for v in (1, 3, 5)} for name in TABLES}
    done = maintain(catalog, DUE, even_if_not_due=True)
    assert [each.table for each in done] == [*TABLES]
    assert all(each.files_before > each.files_after == files(catalog, each.table) == 1 for each in done)
    for name in TABLES:
        assert_frame_equal(content(catalog, name), before[name])
        for version, then in past[name].items():
            assert_frame_equal(content(catalog, name, version), then)
    reached = versions(catalog)
    assert maintain(catalog, DUE) == []
    again = maintain(catalog, DUE, even_if_not_due=True)
    assert [(each.files_before, each.files_after, each.vacuumed) for each in again] == [(1, 1, 0)] * len(TABLES)
    assert versions(catalog) == reached
    catalog.publish(rows(range(20), "later"))
    assert content(catalog, "enrichments").filter(pl.col("fingerprint") == "later").height == 20


def test_a_table_is_due_by_its_small_files_and_not_before(catalog: Catalog) -> None:
    for k in range(4):
        catalog.publish(rows(range(k, k + 1)))
    assert maintain(catalog, DUE) == []
    catalog.publish(rows(range(4, 5)))
    assert maintain(catalog, Upkeep(compact_files=None)) == []
    assert [(each.table, each.files_before) for each in maintain(catalog, DUE)] == [("enrichments", 5)]


def reach(catalog: Catalog) -> pl.DataFrame:
    """The bounds of the files, in order."""
    return pl.DataFrame(catalog.table("enrichments").get_add_actions(flatten=True)).sort("min.uri")


def test_small_files_are_joined_in_the_order_of_their_keys_and_cut_where_they_become_large(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sightflow.blocks.catalog.clustering.FILE_BYTES", 40_000)
    monkeypatch.setattr("sightflow.blocks.catalog.clustering._KEYS_SAMPLED", 1)
    for k in range(9):  # each reaches over all the others
        catalog.publish(rows(range(1)).clear().vstack(pl.concat([rows(range(n, n + 1)) for n in range(k, 270, 9)])))
    before = content(catalog, "enrichments")
    maintain(catalog, DUE, even_if_not_due=True)
    bounds = reach(catalog)
    assert 1 < bounds.height < 9
    assert (bounds["max.uri"].shift().drop_nulls() < bounds["min.uri"][1:]).all()
    assert_frame_equal(content(catalog, "enrichments"), before)


def test_large_files_that_reach_over_each_other_are_sorted_a_few_at_a_time(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sightflow.blocks.catalog.clustering.SMALL_BYTES", 0)
    monkeypatch.setattr("sightflow.blocks.catalog.clustering.FILE_BYTES", 20_000)
    monkeypatch.setattr("sightflow.blocks.catalog.clustering._KEYS_SAMPLED", 1)

    def over_a_key() -> int:
        bounds = list(reach(catalog).select("min.uri", "max.uri").iter_rows())
        return max(sum(first <= uri <= last for first, last in bounds) for uri, _ in bounds)

    for k in range(20):
        catalog.publish(pl.concat([rows(range(n, n + 1)) for n in range(k, 200, 20)]))
    before = content(catalog, "enrichments")
    assert over_a_key() == 20
    written = 0
    while any(each.files_after != each.files_before or written == 0 for each in maintain(catalog, DUE, True)):
        written += 1
        assert written < 9
    assert over_a_key() <= 8
    assert_frame_equal(content(catalog, "enrichments"), before)


def test_two_writers_while_tables_are_looked_after_lose_nothing_and_double_nothing(catalog: Catalog) -> None:
    for k in range(10):
        catalog.publish(rows(range(k * 10, k * 10 + 10), "old"))
    errors: list[BaseException] = []
    written = threading.Event()

    def write(first: int) -> None:
        try:
            for k in range(first, first + 6):
                # Replaces rows of files that are being joined, and adds new ones.
                catalog.publish(rows(range(k * 8, k * 8 + 4), "new"))
                catalog.publish(rows(range(1000 + k, 1001 + k)))
        except BaseException as error:
            errors.append(error)

    def look_after() -> None:
        try:
            while not written.is_set():
                maintain(catalog, Upkeep(compact_files=2))
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 6)]
    keeper = threading.Thread(target=look_after)
    for thread in (*writers, keeper):
        thread.start()
    for thread in writers:
        thread.join()
    written.set()
    keeper.join()
    assert not errors
    assert any("sightflow.joined" in commit for commit in catalog.table("enrichments").history())
    found = content(catalog, "enrichments")
    assert found["uri"].is_unique().all()
    renewed = {f"s3://b/{k * 8 + i:04d}.jpg" for k in range(12) for i in range(4)}
    expected = {f"s3://b/{k:04d}.jpg": "old" for k in range(100)} | dict.fromkeys(renewed, "new")
    expected |= {f"s3://b/{1000 + k:04d}.jpg": "one" for k in range(12)}
    assert dict(found.select("uri", "fingerprint").iter_rows()) == expected


def test_a_race_that_is_lost_is_told_and_costs_nothing(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(5):
        catalog.publish(rows(range(k, k + 1)))
    commit = DataFiles.commit

    def second(files: DataFiles, *given: Any) -> int:
        monkeypatch.undo()
        catalog.publish(rows(range(5), "two"))
        return commit(files, *given)

    monkeypatch.setattr(DataFiles, "commit", second)
    (done,) = maintain(catalog, DUE)
    assert done.summary == "enrichments: left as it is, another writer came first"
    assert content(catalog, "enrichments")["fingerprint"].to_list() == ["two"] * 5


KILLED = """
import sys
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.labels import Labels, label_of_row
from sightflow.blocks.catalog.maintenance import maintain
from sightflow.schemas.policy import Upkeep

catalog = Catalog(uri=sys.argv[1])
catalog.table("enrichments")
print("about to begin", flush=True)
maintain(catalog, Upkeep(compact_files=2))
"""


def test_killed_in_the_middle_and_run_again(catalog: Catalog) -> None:
    number = pl.int_range(20_000, dtype=pl.Int64())
    for k in range(4):
        many = rows(range(1)).select(pl.all().repeat_by(20_000).explode())
        catalog.publish(
            many.with_columns(uri=f"s3://b/{k}-" + number.cast(pl.String()), text=number.hash(k).cast(pl.String()))
        )
    before = content(catalog, "enrichments")
    process = subprocess.Popen([sys.executable, "-c", KILLED, catalog.uri], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline()
    while process.poll() is None and not has_unnamed_files(catalog):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert_frame_equal(content(catalog, "enrichments"), before)
    maintain(catalog, Upkeep(compact_files=2))
    assert files(catalog, "enrichments") == 1
    assert_frame_equal(content(catalog, "enrichments"), before)


def has_unnamed_files(catalog: Catalog) -> bool:
    """Whether files lie there that were not published."""
    folder = Path(catalog.table_uri("enrichments").removeprefix("file://"))
    return len(list(folder.rglob("part-*"))) > 4


def age(catalog: Catalog, days: float) -> None:
    """Let all that has been done to the enrichments so far be so many days ago."""
    folder = Path(catalog.table_uri("enrichments").removeprefix("file://"))
    moment = time.time() - days * 86400
    for commit in (folder / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in commit.read_text().splitlines()]
        for action in actions:
            if "remove" in action:
                action["remove"]["deletionTimestamp"] -= round(days * 86_400_000)
            if "commitInfo" in action:
                action["commitInfo"]["timestamp"] -= round(days * 86_400_000)
        commit.write_text("\n".join(map(json.dumps, actions)))
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (moment, path.stat().st_mtime - days * 86400))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_what_no_kept_version_needs_is_removed_and_nothing_else(catalog: Catalog, checkpoint: bool) -> None:
    catalog.publish(rows(range(5), "first"))
    catalog.publish(rows(range(5), "second"))
    age(catalog, 30)
    catalog.publish(rows(range(5), "third"))
    recent = catalog.publish(rows(range(5), "fourth")).version
    age(catalog, 10)
    if checkpoint:
        catalog.table("enrichments").create_checkpoint()
        catalog.table("enrichments").cleanup_metadata()
    folder = Path(catalog.table_uri("enrichments").removeprefix("file://"))
    orphan, young = folder / "left-by-a-kill.parquet", folder / "being-written.parquet"
    orphan.write_bytes(b"half a file")
    os.utime(orphan, (0, 0))
    young.write_bytes(b"half a file")
    (done,) = maintain(catalog, Upkeep(keep_days=20), even_if_not_due=True)
    assert done.vacuumed == 2 and not orphan.exists() and young.exists()
    assert retention_days(catalog) == 20
    assert set(content(catalog, "enrichments")["fingerprint"]) == {"fourth"}
    assert recent is not None
    for version, said in {recent - 2: "second", recent - 1: "third", recent: "fourth"}.items():
        assert set(content(catalog, "enrichments", version)["fingerprint"]) == {said}
    reached = catalog.version()
    (again,) = maintain(catalog, Upkeep(keep_days=20), even_if_not_due=True)
    assert (again.vacuumed, catalog.version()) == (0, reached)
    with pytest.raises(StoreError, match="cannot be read"):
        catalog.read(catalog.scan("enrichments", recent - 3))
    with pytest.raises(StoreError):
        catalog.restore(recent - 3)
    assert set(content(catalog, "enrichments")["fingerprint"]) == {"fourth"}
    assert catalog.restore(recent - 2) == reached + 1


@pytest.mark.parametrize("damage", ["checkpoint", "no checkpoint", "gap", "entry"])
def test_a_damaged_log_is_told_with_what_to_do(catalog: Catalog, damage: str) -> None:
    for k in range(3):
        catalog.publish(rows(range(k, k + 1)))
    catalog.table("enrichments").create_checkpoint()
    for k in range(3, 5):
        catalog.publish(rows(range(k, k + 1)))
    log = Path(catalog.table_uri("enrichments").removeprefix("file://")) / "_delta_log"
    (checkpoint,) = log.glob("*.checkpoint.parquet")
    if "checkpoint" in damage:
        for version in range(3):
            (log / f"{version:020d}.json").unlink()
    if damage == "no checkpoint":
        checkpoint.unlink()
    elif damage == "checkpoint":
        checkpoint.write_bytes(b"no parquet" * 100)
    elif damage == "gap":
        (log / f"{4:020d}.json").unlink()
    else:
        (log / f"{5:020d}.json").write_text("{nonsense")
    with pytest.raises(StoreError, match=r"table enrichments is damaged: .*_delta_log from a backup"):
        catalog.publish(rows(range(9)))
    assert not maintain_is_possible(catalog)


def maintain_is_possible(catalog: Catalog) -> bool:
    try:
        maintain(catalog, DUE, even_if_not_due=True)
    except StoreError:
        return False
    return True
