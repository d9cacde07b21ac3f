"""New keys are appended without reading the table, and no key is ever there twice, whoever else writes."""

import random
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightflow.blocks.catalog.appender import Appender
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.maintenance import maintain
from sightflow.blocks.catalog.table_writes import append_next
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreError
from sightflow.schemas.policy import Upkeep
from tests.blocks.catalog.test_catalog import rows


@pytest.fixture(params=["local", "s3"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Catalog:
    if request.param == "s3":
        bucket = request.getfixturevalue("bucket")
        return Catalog(uri=f"s3://{bucket.name}/catalog", store=ObjectStore(endpoint_url=bucket.endpoint))
    return Catalog(uri=f"file://{tmp_path}/a folder with spaces, ü and 100%")


def keys(catalog: Catalog) -> list[int]:
    found = catalog.scan("enrichments").select("uri").collect()["uri"]
    return sorted(int(uri[-8:-4]) for uri in found)


def write(appender: Appender, catalog: Catalog, frame: pl.DataFrame) -> int:
    """As a run does: what is new is appended, what is left is merged."""
    appended, left = appender.append(frame)
    merged = catalog.publish(left)
    appender.committed(merged.version)
    return appended.inserted


def test_new_keys_are_appended_and_those_that_another_writer_has_added_are_left(catalog: Catalog) -> None:
    first, second = Appender(catalog, "enrichments", None), Appender(catalog, "enrichments", None)
    assert first.append(rows(range(6)))[0].inserted == 6
    appended, left = second.append(rows(range(3, 9), "another"))
    assert appended.inserted == 3 and sorted(left["uri"]) == sorted(rows(range(3, 6))["uri"])
    catalog.publish(rows(range(9, 12)))  # a merge adds keys too
    appended, left = first.append(rows(range(8, 14)))
    assert appended.inserted == 2 and left.height == 4
    assert keys(catalog) == list(range(14))


def test_a_group_that_is_committed_again_is_left_whole(catalog: Catalog) -> None:
    appender = Appender(catalog, "enrichments", None)
    frame = rows(range(4))
    assert appender.append(frame)[1].is_empty()
    appended, left = appender.append(frame)
    assert appended.version is None and left.equals(frame)
    assert appender.append(rows(range(4, 6)))[0].inserted == 2


def test_a_commit_whose_answer_was_lost_is_found_again(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    appender = Appender(catalog, "enrichments", None)

    def lost(table: Any, frame: pl.DataFrame) -> int:
        append_next(table, frame)
        raise OSError("the connection was reset")

    with monkeypatch.context() as within:
        within.setattr("sightflow.blocks.catalog.appender.append_next", lost)
        with pytest.raises(StoreError, match="reset"):
            appender.append(rows(range(3)))
    assert write(appender, catalog, rows(range(5))) == 2
    assert keys(catalog) == list(range(5))


def test_what_upkeep_rewrites_is_not_taken_for_new(catalog: Catalog) -> None:
    catalog.publish(rows(range(3)))
    appender = Appender(catalog, "enrichments", catalog.version())
    catalog.publish(rows(range(3, 6)))
    maintain(catalog, Upkeep(compact_files=2), even_if_not_due=True)
    assert write(appender, catalog, rows(range(3, 9))) == 3
    assert keys(catalog) == list(range(9))


def test_where_the_log_is_gone_everything_is_merged(tmp_path: Path) -> None:
    catalog = Catalog.at(tmp_path / "catalog")
    appender = Appender(catalog, "enrichments", None)
    for k in range(3):
        catalog.publish(rows(range(k, k + 1)))
    catalog.table("enrichments").create_checkpoint()
    for version in range(2):
        (tmp_path / "catalog" / "enrichments" / "_delta_log" / f"{version:020d}.json").unlink()
    assert write(appender, catalog, rows(range(5))) == 0
    assert keys(catalog) == list(range(5))


def test_rows_appended_hold_what_was_given_in_types_that_a_merge_takes(catalog: Catalog) -> None:
    appender = Appender(catalog, "enrichments", None)
    appender.append(rows(range(4)))
    catalog.publish(rows(range(2), "another"))
    found = catalog.scan("enrichments").collect().sort("uri")
    assert found.equals(pl.concat([rows(range(2), "another"), rows(range(2, 4))]))


def test_four_runs_at_once_end_in_each_key_once(catalog: Catalog) -> None:
    catalog.publish(rows(range(5)))
    version, errors = catalog.version(), []

    def run(seed: int) -> None:
        appender, numbers = Appender(catalog, "enrichments", version), random.Random(seed).sample(range(5, 45), 40)[:30]
        try:
            for k in range(0, 30, 6):
                write(appender, catalog, pl.concat([rows(range(n, n + 1)) for n in numbers[k : k + 6]]))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    drawn = [random.Random(seed).sample(range(5, 45), 40)[:30] for seed in range(4)]
    assert keys(catalog) == sorted(set(range(5)).union(*drawn))


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 2), st.sets(st.integers(0, 30), min_size=1)), max_size=8))
def test_in_whatever_order_writers_come_every_key_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, set[int]]]
) -> None:
    """Each writer appends only what it has not written itself, as a run does; the third one merges alone."""
    catalog = Catalog.at(tmp_path_factory.mktemp("any-order"))
    writers = [Appender(catalog, "enrichments", None) for _ in range(2)]
    written: list[set[int]] = [set(), set()]
    for who, numbers in steps:
        frame = rows(range(0)).vstack(pl.concat([rows(range(k, k + 1)) for k in sorted(numbers)]))
        if who == 2:
            catalog.publish(frame)
            continue
        new = frame.filter([k not in written[who] for k in sorted(numbers)])
        written[who] |= numbers
        if new.height:
            write(writers[who], catalog, new)
    assert keys(catalog) == sorted(set().union(*(numbers for _, numbers in steps)))
