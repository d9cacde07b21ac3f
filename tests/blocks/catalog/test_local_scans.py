"""A local table is read without pyarrow, as `polars.scan_delta` reads it."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from polars.testing import assert_frame_equal

from sightflow.blocks.store.object_store import ObjectStore

TIME = datetime(2026, 3, 1, 12, 30, 15, 123000, tzinfo=UTC)
REGION = pl.Struct({"label": pl.String(), "score": pl.Float64()})
SCHEMA = {
    "uri": pl.String(),
    "kind": pl.String(),
    "bytes": pl.Int64(),
    "score": pl.Float64(),
    "at": pl.Datetime("us", "UTC"),
    "regions": pl.List(REGION),
}


def rows(first: int, count: int, kind: str) -> pl.DataFrame:
    made = [
        (f"file:///{k:03d}", kind, k, k / 7, TIME, [{"label": "a", "score": 0.5}] * (k % 3))
        for k in range(first, first + count)
    ]
    return pl.DataFrame(made, schema=SCHEMA, orient="row")


def both(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of a table as we read them and as Polars does."""
    table = DeltaTable(str(folder))
    ours = ObjectStore().scan_delta(f"file://{folder}", table)
    assert ours.collect_schema() == pl.scan_delta(table).collect_schema()
    return ours.sort("uri").collect(), pl.scan_delta(table).sort("uri").collect()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path / "table"
    write_deltalake(folder, rows(0, 5, "a").to_arrow(), partition_by=["kind"])
    return folder


def replace_file(folder: Path, table: pa.Table) -> None:
    """Have another file in the place of that of the partition `a`, with other types, as other writers make them."""
    (old,) = (folder / "kind=a").glob("*.parquet")
    new = old.with_name("other.parquet")
    pq.write_table(table.drop_columns(["kind"]), new)
    added = {"path": "kind=a/other.parquet", "partitionValues": {"kind": "a"}, "size": new.stat().st_size}
    actions = [
        {"add": {**added, "modificationTime": 1, "dataChange": True}},
        {"remove": {"path": f"kind=a/{old.name}", "deletionTimestamp": 1, "dataChange": True}},
    ]
    log = folder / "_delta_log" / "00000000000000000001.json"
    log.write_text("".join(json.dumps(action) + "\n" for action in actions))


def test_rows_of_several_files_and_partitions(table: Path) -> None:
    write_deltalake(table, rows(5, 3, "b").to_arrow(), mode="append")
    ours, theirs = both(table)
    assert ours.height == 8
    assert_frame_equal(ours, theirs)


def test_a_column_that_came_later_is_null_in_older_files(table: Path) -> None:
    later = rows(5, 2, "b").with_columns(note=pl.lit("x"))
    write_deltalake(table, later.to_arrow(), mode="append", schema_mode="merge")
    ours, theirs = both(table)
    assert ours["note"].to_list() == [None] * 5 + ["x"] * 2
    assert_frame_equal(ours, theirs)


@pytest.mark.parametrize("unit", ["ms", "ns"])
def test_other_writers_types(table: Path, unit: str) -> None:
    arrow = rows(0, 5, "a").to_arrow()
    narrow = pa.list_(pa.struct([("label", pa.string())]))
    for name, kind in {"bytes": pa.int32(), "score": pa.float32(), "at": pa.timestamp(unit, "UTC")}.items():
        arrow = arrow.set_column(arrow.schema.get_field_index(name), name, arrow[name].cast(kind))
    plain = pa.array([[{"label": "a"}] * (k % 3) for k in range(5)], narrow)
    arrow = arrow.set_column(arrow.schema.get_field_index("regions"), "regions", plain)
    replace_file(table, arrow.append_column("more", pa.array(range(5))))
    ours, theirs = both(table)
    assert ours["at"].to_list() == [TIME] * 5 and ours["regions"][1].to_list() == [{"label": "a", "score": None}]
    assert_frame_equal(ours, theirs)


def test_a_table_without_files(table: Path) -> None:
    DeltaTable(str(table)).delete()
    ours, theirs = both(table)
    assert ours.is_empty()
    assert_frame_equal(ours, theirs)


def test_rows_that_deletion_vectors_hide_stay_hidden(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(pl, "scan_delta", lambda table: asked.append(table))
    log = table / "_delta_log" / "00000000000000000001.json"
    features = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"]}
    log.write_text(json.dumps({"protocol": {**features, "writerFeatures": ["deletionVectors"]}}) + "\n")
    opened = DeltaTable(str(table))
    ObjectStore().scan_delta(f"file://{table}", opened)
    assert asked == [opened]


def test_pyarrow_is_not_loaded(table: Path) -> None:
    program = (
        "import sys; from deltalake import DeltaTable; from sightflow.blocks.store.object_store import ObjectStore\n"
        f"print(ObjectStore().scan_delta('file://{table}', DeltaTable({str(table)!r})).collect().height)\n"
        "assert 'pyarrow.lib' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "5"), done.stderr
