"""Rows are replaced by writing anew the files that hold them, and nothing else, whoever commits meanwhile."""

import json
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from sightflow.blocks.catalog.catalog import SCHEMAS, Catalog
from sightflow.blocks.catalog.data_files import DataFiles
from sightflow.blocks.catalog.file_content import GROUP_ROWS, row_groups, rows_at_once
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreError
from tests.blocks.catalog.test_catalog import held, rows


@pytest.fixture(params=["local", "s3"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Catalog:
    if request.param == "s3":
        bucket = request.getfixturevalue("bucket")
        return Catalog(uri=f"s3://{bucket.name}/catalog", store=ObjectStore(endpoint_url=bucket.endpoint))
    return Catalog(uri=f"file://{tmp_path}/a folder with spaces, ü and 100%")


def filled(catalog: Catalog) -> dict[str, tuple[str, str]]:
    """Ten files of ten keys each; the first and last key of each, by path."""
    for k in range(10):
        catalog.publish(rows(range(k * 10, k * 10 + 10)))
    return files(catalog)


def files(catalog: Catalog) -> dict[str, tuple[str, str]]:
    found = pl.DataFrame(catalog.table("enrichments").get_add_actions(flatten=True))
    return {path: tuple(reach) for path, *reach in found.select("path", "min.uri", "max.uri").iter_rows()}  # type: ignore[misc]


def content(catalog: Catalog) -> dict[int, str]:
    found = catalog.scan("enrichments").select("uri", "fingerprint").collect()
    assert found["uri"].is_unique().all()
    return {int(uri[-8:-4]): fingerprint for uri, fingerprint in found.sort("uri").iter_rows()}


def meanwhile(monkeypatch: pytest.MonkeyPatch, *acts: Callable[[], Any]) -> list[int]:
    """Let others act right before the first commits; how many files had been written before each commit."""
    commit, write, waiting, written = DataFiles.commit, DataFiles.write, list(acts), []
    count, one = 0, Lock()

    def writing(files: DataFiles, *given: Any, **more: Any) -> Any:
        nonlocal count
        with one:
            count += 1
        return write(files, *given, **more)

    def committing(files: DataFiles, *given: Any) -> int:
        if waiting:
            act = waiting.pop(0)
            with monkeypatch.context() as within:
                within.setattr(DataFiles, "commit", commit)
                within.setattr(DataFiles, "write", write)
                act()
        written.append(count)
        return commit(files, *given)

    monkeypatch.setattr(DataFiles, "write", writing)
    monkeypatch.setattr(DataFiles, "commit", committing)
    return written


def test_only_the_files_that_hold_the_keys_are_written_anew(catalog: Catalog) -> None:
    before = filled(catalog)
    changed = pl.concat([rows(range(3, 4), "two"), rows(range(72, 74), "two")])
    assert catalog.publish(changed).updated == 3
    after = files(catalog)
    kept = before.keys() & after.keys()
    assert len(kept) == 8 and sorted(before.values()) == sorted(after.values())
    assert content(catalog) == {k: "two" if k in (3, 72, 73) else "one" for k in range(100)}
    assert catalog.prune(held(catalog, ["s3://b/0045.jpg"])) == 1
    assert len(files(catalog).keys() & after.keys()) == 9
    assert catalog.prune(held(catalog, [f"s3://b/{k:04d}.jpg" for k in range(20, 30)])) == 10
    assert len(files(catalog)) == 9


def test_a_replaced_row_stays_at_its_place_and_the_log_says_the_bounds(tmp_path: Path) -> None:
    catalog = Catalog.at(tmp_path / "catalog")
    catalog.publish(rows(range(10)))
    catalog.publish(pl.concat([rows(range(3, 5), "two", text="t" * 400), rows(range(20, 21))]))
    path = next(path for path, reach in files(catalog).items() if reach == ("s3://b/0000.jpg", "s3://b/0009.jpg"))
    table = pq.read_table(tmp_path / "catalog" / "enrichments" / path, partitioning=None)
    assert table["fingerprint"].to_pylist() == ["one"] * 3 + ["two"] * 2 + ["one"] * 5
    commit = (tmp_path / "catalog" / "enrichments" / "_delta_log" / f"{2:020d}.json").read_text().splitlines()
    added = [json.loads(json.loads(line)["add"]["stats"]) for line in commit if '"add"' in line]
    assert {each["numRecords"] for each in added} == {10, 1}
    (ten,) = [each for each in added if each["numRecords"] == 10]
    assert (ten["minValues"]["width"], ten["maxValues"]["fingerprint"], ten["nullCount"]["sha256"]) == (10, "two", 10)
    assert ten["maxValues"]["text"] == "t" * 255 + "u" and "regions" not in ten["nullCount"]


@pytest.mark.parametrize("step", [1, 7, 500])
def test_few_rows_of_a_file_and_most_of_it_are_replaced_alike(tmp_path: Path, step: int) -> None:
    catalog = Catalog.at(tmp_path / "catalog")
    region = {"label": "dog", "x_min": 1.0, "y_min": 1.0, "x_max": 2.0, "y_max": 2.0}
    kind = SCHEMAS["enrichments"]["regions"]

    def detected(keys: range, fingerprint: str) -> pl.DataFrame:
        regions = pl.Series([[region | {"label": f"{fingerprint} {k}"}] * (k % 3) for k in keys], dtype=kind)
        return rows(keys, fingerprint).with_columns(regions=regions, text=pl.format("{} text", "uri"))

    whole = detected(range(3000), "one")
    changed = detected(range(0, 3000, step), "two")
    catalog.publish(whole)
    assert catalog.publish(changed).updated == changed.height
    gone = [f"s3://b/{k:04d}.jpg" for k in range(1, 3000, step)]
    assert catalog.prune(held(catalog, gone)) == len(gone)
    kept = pl.concat([whole.join(changed, on="uri", how="anti"), changed]).filter(~pl.col("uri").is_in(gone))
    (path,) = files(catalog)
    table = pl.read_parquet(tmp_path / "catalog" / "enrichments" / path, hive_partitioning=False)
    columns = [column for column in whole.columns if column != "capability"]
    assert_frame_equal(table.select(columns), kept.sort("uri").select(columns))


def test_what_is_replaced_is_in_no_dictionary_of_the_file_either(tmp_path: Path) -> None:
    catalog = Catalog.at(tmp_path / "catalog")
    catalog.publish(pl.concat([rows(range(1), text="a secret"), rows(range(1, 9))]))
    catalog.publish(rows(range(1), "two", text="nothing"))
    (path,) = files(catalog)
    with pq.ParquetFile(tmp_path / "catalog" / "enrichments" / path, read_dictionary=["text"]) as file:
        (texts,) = {tuple(chunk.dictionary.to_pylist()) for chunk in file.read(["text"])["text"].chunks}
    assert sorted(texts) == ["a dog", "nothing"]


def test_bounds_of_long_texts_are_told_when_their_file_is_written_anew(tmp_path: Path) -> None:
    catalog = Catalog.at(tmp_path / "catalog")
    texts = ["b" * 5000, "c", "y" * 5000, "z" * 9000]
    catalog.publish(pl.concat([rows(range(k, k + 1), text=text) for k, text in enumerate(texts)]))
    catalog.publish(rows(range(3, 4), "two", text="d"))
    entries = pl.DataFrame(catalog.table("enrichments").get_add_actions(flatten=True))
    assert entries.select("min.text", "max.text").row(0) == ("b" * 256, "y" * 255 + "z")


def test_a_row_group_is_filled_and_no_larger() -> None:
    batches = [pa.record_batch({"k": pa.array(range(count))}) for count in (GROUP_ROWS - 10, 10, GROUP_ROWS - 10, 20)]
    assert [group.num_rows for group in row_groups(batches)] == [GROUP_ROWS, GROUP_ROWS - 10, 20]


def test_rows_that_are_large_are_read_few_at_once(tmp_path: Path) -> None:
    path = tmp_path / "large.parquet"
    pq.write_table(pa.table({"uri": [f"{k}" + "x" * 2**20 for k in range(80)]}), path)
    assert 50 < rows_at_once(pq.read_metadata(path)) < 64
    pq.write_table(pa.table({"k": [1] * 100_000}), path)
    assert rows_at_once(pq.read_metadata(path)) == GROUP_ROWS


def test_files_of_another_writer_meanwhile_cost_no_second_writing(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(catalog)
    others = [lambda k=k: catalog.publish(rows(range(k, k + 1), "other")) for k in (200, 201, 50)]
    written = meanwhile(monkeypatch, *others)
    assert catalog.publish(rows(range(8, 12), "two")).updated == 4
    assert written == [2, 2, 2, 2]
    expected = {k: "two" if 8 <= k < 12 else "one" for k in range(100)} | {200: "other", 201: "other", 50: "other"}
    assert content(catalog) == expected


@pytest.mark.parametrize("concerned", ["a key", "a file", "the table"])
def test_what_another_writer_has_changed_meanwhile_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concerned: str
) -> None:
    catalog = Catalog.at(tmp_path / "catalog")
    filled(catalog)
    acts: dict[str, Callable[[], Any]] = {
        "a key": lambda: catalog.publish(rows(range(300, 301), "other")),
        "a file": lambda: catalog.publish(rows(range(9, 10), "other")),
        "the table": lambda: catalog.table("enrichments").alter.set_table_properties({"delta.appendOnly": "false"}),
    }
    written = meanwhile(monkeypatch, acts[concerned])
    merged = catalog.publish(pl.concat([rows(range(8, 12), "two"), rows(range(300, 301), "two")]))
    assert written == [3, 6]
    assert merged.updated == 4 + (concerned == "a key")
    assert content(catalog) == {k: "two" if 8 <= k < 12 else "one" for k in range(100)} | {300: "two"}


def test_what_was_written_for_nothing_is_taken_away_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog.at(tmp_path / "catalog")
    catalog.publish(rows(range(10)))
    meanwhile(monkeypatch, lambda: catalog.publish(rows(range(9, 10), "other")))
    catalog.publish(rows(range(8, 10), "two"))
    named = set[str]()
    for entry in sorted((tmp_path / "catalog" / "enrichments" / "_delta_log").glob("*.json")):
        actions = map(json.loads, entry.read_text().splitlines())
        named |= {action["add"]["path"].rpartition("/")[2] for action in actions if "add" in action}
    assert {path.name for path in (tmp_path / "catalog" / "enrichments").rglob("*.parquet")} == named


@pytest.mark.parametrize("others", [0, 2])
def test_a_commit_whose_answer_was_lost_is_found_and_keeps_its_files(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    from deltalake.exceptions import CommitFailedError

    filled(catalog)
    commit = DataFiles.commit

    def lost(files: DataFiles, *given: Any) -> int:
        commit(files, *given)
        monkeypatch.undo()
        for k in range(others):
            catalog.publish(rows(range(8, 9), f"later {k}"))
        raise CommitFailedError("the answer was lost")

    monkeypatch.setattr(DataFiles, "commit", lost)
    merged = catalog.publish(rows(range(8, 12), "two"))
    assert (merged.updated, merged.version) == (4, 11)
    assert catalog.version() == 11 + others
    assert content(catalog)[8] == (f"later {others - 1}" if others else "two")
    assert content(catalog)[11] == "two"


def test_a_commit_that_fails_for_good_is_told_and_leaves_the_rows(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(catalog)

    def full(*_: Any) -> int:
        raise OSError("No space left on device")

    with monkeypatch.context() as within:
        within.setattr(DataFiles, "commit", full)
        with pytest.raises(StoreError, match="No space left"):
            catalog.publish(rows(range(100), "two"))
    assert set(content(catalog).values()) == {"one"}


@settings(max_examples=25)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["publish", "other", "prune"]), st.sets(st.integers(0, 25), min_size=1)), max_size=7
    )
)
def test_whatever_is_published_and_pruned_the_rows_are_those_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, set[int]]]
) -> None:
    catalog = Catalog.at(tmp_path_factory.mktemp("any-order"))
    model: dict[int, str] = {}
    for turn, (act, numbers) in enumerate(steps):
        named = [f"s3://b/{k:04d}.jpg" for k in sorted(numbers)]
        if act == "prune":
            assert catalog.prune(held(catalog, named)) == len(model.keys() & numbers)
            model = {k: fingerprint for k, fingerprint in model.items() if k not in numbers}
            continue
        frame = pl.concat([rows(range(k, k + 1), str(turn)) for k in sorted(numbers)])
        if act == "other":  # the name is asked for another capability: the row changes its partition
            frame = frame.with_columns(capability=pl.lit("visual_question_answering"))
        merged = catalog.publish(frame)
        assert (merged.updated, merged.inserted) == (len(model.keys() & numbers), len(numbers - model.keys()))
        model |= dict.fromkeys(numbers, str(turn))
    assert content(catalog) == model
