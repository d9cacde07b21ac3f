"""The catalog: merges by key, tells versions apart, and stays whole when several write at once."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.sql_views import connect
from sightflow.schemas.failure import StoreError
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from sightflow.schemas.tables.quarantine import QUARANTINE_SCHEMA


def rows(keys: range, fingerprint: str = "one", text: str = "a dog", enrichment: str = "caption") -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "uri": f"s3://b/{k:04d}.jpg",
                "enrichment": enrichment,
                "capability": "image_captioning",
                "fingerprint": fingerprint,
                "object_version": "v",
                "recipe": "r",
                "width": 10,
                "height": 8,
                "text": text,
            }
            for k in keys
        ],
        schema=CATALOG_SCHEMA,
    )


def cases(keys: range) -> pl.DataFrame:
    return pl.DataFrame(
        [{"uri": f"s3://b/{k:04d}.jpg", "enrichment": "caption", "cause": "decode"} for k in keys],
        schema=QUARANTINE_SCHEMA,
    )


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(uri=f"file://{tmp_path}/a folder with spaces, ü and 100%")


def published(catalog: Catalog, version: int | None = None) -> dict[str, Any]:
    frame = catalog.scan("enrichments", version).select("uri", "fingerprint").collect()
    assert frame["uri"].is_unique().all()
    return dict(frame.iter_rows())


def held(catalog: Catalog, uris: Sequence[str] | None = None) -> pl.DataFrame:
    """The keys and fingerprints of the rows, or of those of some objects."""
    found = catalog.scan("enrichments").select("uri", "enrichment", "fingerprint").collect()
    return found if uris is None else found.filter(pl.col("uri").is_in(uris))


def test_before_the_first_commit_everything_is_empty(catalog: Catalog) -> None:
    assert catalog.version() is None
    assert published(catalog) == {}
    assert connect(catalog).execute("SELECT * FROM catalog").fetchall() == []


def test_publishing_the_same_rows_again_makes_no_commit(catalog: Catalog) -> None:
    first = catalog.publish(rows(range(5)))
    again = catalog.publish(rows(range(5)))
    assert (first.inserted, first.updated) == (5, 0)
    assert again.version is None and again.written == 0
    assert catalog.version() == first.version


def test_a_row_is_replaced_when_its_fingerprint_differs_and_only_then(catalog: Catalog) -> None:
    catalog.publish(rows(range(5)))
    merged = catalog.publish(pl.concat([rows(range(2), "two"), rows(range(2, 5), text="said otherwise")]))
    assert (merged.inserted, merged.updated) == (0, 2)
    texts = catalog.scan("enrichments").sort("uri").collect()["text"].to_list()
    assert texts == ["a dog"] * 5


def test_a_name_that_is_asked_for_another_capability_replaces_its_rows(catalog: Catalog) -> None:
    catalog.publish(rows(range(5)))
    answers = rows(range(5), "two").with_columns(capability=pl.lit("visual_question_answering"))
    assert catalog.publish(answers).updated == 5
    assert set(published(catalog).values()) == {"two"}
    assert set(catalog.scan("enrichments").collect()["capability"]) == {"visual_question_answering"}


def test_four_writers_of_the_same_and_of_different_keys_end_in_each_key_once(catalog: Catalog) -> None:
    errors: list[BaseException] = []

    def write(k: int) -> None:
        try:
            for part in range(3):
                catalog.publish(
                    pl.concat([rows(range(part * 10, part * 10 + 10)), rows(range(100 + 10 * k, 105 + 10 * k))])
                )
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(published(catalog)) == 30 + 4 * 5


def test_rows_that_lie_between_those_that_are_written_stay(catalog: Catalog) -> None:
    catalog.publish(rows(range(0, 20, 2)))
    catalog.publish(rows(range(20), enrichment="b"))
    ends = pl.concat([rows(range(1), "two"), rows(range(1, 18), text="said otherwise"), rows(range(18, 19), "two")])
    merged = catalog.publish(ends)
    assert (merged.inserted, merged.updated) == (9, 2)
    found = catalog.scan("enrichments").filter(pl.col("enrichment") == "caption").sort("uri").collect()
    assert found["uri"].to_list() == [f"s3://b/{k:04d}.jpg" for k in range(19)]
    assert found["fingerprint"].to_list() == ["two", *["one"] * 17, "two"]
    assert catalog.scan("enrichments").filter(pl.col("enrichment") == "b").collect().height == 20


def test_many_keys_are_written_replaced_and_removed(catalog: Catalog) -> None:
    assert catalog.publish(rows(range(0, 6000, 2))).inserted == 3000
    merged = catalog.publish(rows(range(6000), "two"))
    assert (merged.inserted, merged.updated) == (3000, 3000)
    assert merged.version == catalog.version()
    assert published(catalog) == {f"s3://b/{k:04d}.jpg": "two" for k in range(6000)}
    assert catalog.prune(held(catalog, [f"s3://b/{k:04d}.jpg" for k in range(1, 6000, 3)])) == 2000
    assert len(published(catalog)) == 4000


HARD = ["it's", "''", 'a "b"', "back\\slash", "new\nline", "50%_", "é ü 日本", "--", "$1 {x} ?"]


def test_keys_of_any_text_are_found_replaced_and_removed(catalog: Catalog) -> None:
    uris = pl.Series([f"s3://b/{name}.jpg" for name in HARD])
    mine = rows(range(len(HARD))).with_columns(uri=uris)
    catalog.publish(rows(range(3)))
    catalog.publish(mine)
    assert catalog.publish(mine).version is None
    assert catalog.publish(mine.with_columns(fingerprint=pl.lit("two"))).updated == len(HARD)
    assert set(published(catalog)) == {*uris, *(f"s3://b/{k:04d}.jpg" for k in range(3))}
    assert catalog.prune(held(catalog, uris.to_list())) == len(HARD)


def test_resolving_takes_exactly_these_cases_out(catalog: Catalog) -> None:
    catalog.quarantine(cases(range(10)))
    keys = pl.DataFrame({"uri": ["s3://b/0003.jpg", "s3://b/0007.jpg"], "enrichment": ["caption", "another"]})
    assert catalog.resolve(keys) == 1
    left = catalog.scan("quarantine").collect()["uri"].to_list()
    assert sorted(left) == [f"s3://b/{k:04d}.jpg" for k in range(10) if k != 3]
    version = catalog.version("quarantine")
    assert catalog.resolve(keys) == 0
    assert catalog.version("quarantine") == version


def test_pruning_removes_the_rows_that_are_still_those_that_were_seen(catalog: Catalog) -> None:
    catalog.publish(pl.concat([rows(range(4)), rows(range(4), enrichment="other")]))
    seen = held(catalog, ["s3://b/0001.jpg", "s3://b/0002.jpg"])
    catalog.publish(rows(range(2, 3), "another"))
    assert catalog.prune(seen) == 3
    assert sorted(held(catalog)["uri"]) == sorted([f"s3://b/000{k}.jpg" for k in (0, 0, 2, 3, 3)])
    assert catalog.prune(seen) == 0


def test_history_is_kept_and_restored(catalog: Catalog) -> None:
    first = catalog.publish(rows(range(3))).version
    catalog.publish(rows(range(3), "two"))
    assert first is not None
    assert set(published(catalog, first).values()) == {"one"}
    catalog.restore(first)
    assert set(published(catalog).values()) == {"one"}
    with pytest.raises(StoreError, match="no version 99"):
        catalog.scan("enrichments", 99)


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises((StoreError, OSError)) as raised:
        Catalog(uri=f"file://{tmp_path}/file/catalog").publish(rows(range(1)))
    assert "\n" not in str(raised.value)


def test_the_wide_view_has_one_row_an_object_and_a_column_an_enrichment(catalog: Catalog) -> None:
    catalog.publish(pl.concat([rows(range(2)), rows(range(1), text="yes", enrichment="indoors")]))
    found = connect(catalog).execute("SELECT uri, caption, indoors, width FROM catalog ORDER BY uri").fetchall()
    assert found == [("s3://b/0000.jpg", "a dog", "yes", 10), ("s3://b/0001.jpg", "a dog", None, 10)]


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM read_text('/etc/passwd')", "COPY (SELECT 1) TO '/tmp/x.csv'", "ATTACH '/tmp/x.db'"]
)
def test_a_query_reaches_nothing_outside_the_catalog(catalog: Catalog, sql: str) -> None:
    import duckdb

    catalog.publish(rows(range(1)))
    with pytest.raises(duckdb.Error):
        connect(catalog).execute(sql)
