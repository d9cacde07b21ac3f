"""The rows of the index: what is read of the files of Delta tables, and how it lies in DuckDB."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import duckdb
import pyarrow as pa

from sightflow.blocks.catalog.catalog import TableName

_LONGEST_SEARCHED: Final = 4000
_LONGEST_SHOWN: Final = 600
_ROWS_AT_ONCE: Final = 65_536
_FLAT: Final = ("uri", "enrichment", "media_kind", "system", "model_id", "run_id", "object_version", "fingerprint")
COLUMNS_READ: Final[dict[TableName, list[str]]] = {
    "enrichments": [
        *_FLAT, "inferred_at", "cost_usd", "text", "extracted", "segments.text", "regions.label", "regions.score",
        "tracks.label",
    ],
    "quarantine": [*_FLAT[:2], "capability", *_FLAT[3:], "failed_at", "cost_usd", "cause", "message", "raw_reply"],
}  # fmt: skip
"""What is read of each table: neither boxes, masks nor, of what was published, replies."""
COLUMNS: Final = (
    "uri", "enrichment", "capability", "media_kind", "system", "model_id", "run_id", "made_at", "cost",
    "object_version", "text", "cause",
)  # fmt: skip
"""Columns of `rows` that a page may show."""
TABLES: Final = """
CREATE TABLE rows (id BIGINT, object UBIGINT, file BIGINT, uri VARCHAR, enrichment VARCHAR, capability VARCHAR,
  media_kind VARCHAR, system VARCHAR, model_id VARCHAR, run_id VARCHAR, made_at TIMESTAMP, cost DOUBLE,
  object_version VARCHAR, print UBIGINT, text VARCHAR, searched VARCHAR, cause VARCHAR, low DOUBLE, high DOUBLE);
CREATE TABLE marks (row BIGINT, file BIGINT, label VARCHAR, score DOUBLE);
"""
"""`object` is 64 bits that stand for the URI, since numbers are put together some times faster than long texts; `print`
the same for the fingerprint. `low`, `high`: the least and the greatest score of a row's regions.
"""


def insert(
    writer: duckdb.DuckDBPyConnection, rows: pa.Table, name: TableName, first: int, file: int, capability: str | None
) -> None:
    """Put rows of a table's file into the index, numbered from `first` on."""
    writer.register("batch", _with_all(rows, pa.array(range(first, first + rows.num_rows), pa.int64())))
    failed = name == "quarantine"
    made_at = "failed_at" if failed else "inferred_at"
    segments = "array_to_string(list_transform(segments, lambda s: s.text), ' ')"
    text = "concat_ws(' ', message, raw_reply)" if failed else f"concat_ws(' ', text, extracted, {segments})"
    scores = "list_transform(regions, lambda r: r.score)"
    writer.execute(
        f"""INSERT INTO rows SELECT id, hash(uri), ?, uri, enrichment, {"capability" if failed else "?"}, media_kind,
        system, model_id, run_id, {made_at}, cost_usd, object_version, hash(fingerprint),
        left({text}, {_LONGEST_SHOWN}), left(lower(concat_ws(' ', uri, {text})), {_LONGEST_SEARCHED}), cause,
        list_min({scores}), list_max({scores}) FROM batch""",
        [file] if failed else [file, capability],
    )
    for column, score in (("regions", "mark.score"), ("tracks", "NULL")):
        writer.execute(
            f"INSERT INTO marks SELECT id, ?, coalesce(mark.label, ''), {score} "
            f"FROM (SELECT id, unnest({column}) AS mark FROM batch WHERE {column} IS NOT NULL)",
            [file],
        )
    writer.unregister("batch")


def joined(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches put together until they are worth an insertion."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(each.num_rows for each in waiting) >= _ROWS_AT_ONCE:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def _with_all(rows: pa.Table, ids: pa.Array) -> pa.Table:
    """Rows with every column that is asked of it, null where its file has none; times without their zone, UTC."""
    columns: dict[str, Any] = {"id": ids}
    for name in rows.schema.names:
        column = rows.column(name)
        columns[name] = column.cast(pa.timestamp("us")) if pa.types.is_timestamp(column.type) else column
    nested = {
        "regions": pa.list_(pa.struct({"label": pa.string(), "score": pa.float64()})),
        "tracks": pa.list_(pa.struct({"label": pa.string()})),
        "segments": pa.list_(pa.struct({"text": pa.string()})),
    }
    flat = {"cost_usd": pa.float64(), "inferred_at": pa.timestamp("us"), "failed_at": pa.timestamp("us")}
    texts = ("capability", "cause", "message", "raw_reply", "text", "extracted", *_FLAT)
    for name, kind in {**dict.fromkeys(texts, pa.string()), **flat, **nested}.items():
        if name not in columns:
            columns[name] = pa.nulls(rows.num_rows, kind)
    return pa.table(columns)
