"""How rows get into a Delta table: in plain types, in one commit each.

Not by delta-rs' own merge, update and delete: those write text in an encoding of their own ("string view"), and
pyarrow, by which pandas and DuckDB read too, cannot filter such a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from sightflow.schemas.tables.deferred_pandera import DataFrameModel
from sightflow.schemas.tables.frames import column_comments, polars_schema

COUNT_PREFIX = "sightflow."
"""Of the names by which the history says how many rows a commit inserted, updated, deleted."""
_ROWS_PER_BATCH = 4096  # a batch of plain strings holds 2 GiB a column


def delta_schema(model: type[DataFrameModel]) -> Any:
    """The columns of a pandera model as a `deltalake.Schema`, each with its meaning as the comment that others show."""
    import pyarrow as pa
    from deltalake import Schema

    comments = column_comments(model)
    columns = pl.DataFrame(schema=polars_schema(model)).to_arrow().schema
    return Schema.from_arrow(pa.schema([each.with_metadata({"comment": comments[each.name]}) for each in columns]))


def append_rows(table: Any, rows: pl.DataFrame) -> None:
    """Add rows to an open table (`deltalake.DeltaTable`)."""
    from deltalake import write_deltalake

    write_deltalake(table, _plain(rows, table), mode="append")


def append_next(table: Any, rows: pl.DataFrame) -> int:
    """Add rows to an open table as its very next version, which is returned.

    Raises CommitFailedError if another writer has taken that version.
    """
    from deltalake import CommitProperties, write_deltalake

    noted = {f"{COUNT_PREFIX}inserted": str(rows.height), f"{COUNT_PREFIX}updated": "0"}
    only_next = CommitProperties(custom_metadata=noted, max_commit_retries=0)
    write_deltalake(table, _plain(rows, table), mode="append", commit_properties=only_next)
    return int(table.version())


def replace_rows(table: Any, where: str, rows: pl.DataFrame, counts: Mapping[str, int]) -> int:
    """Commit rows in the place of all that `where` names, and return the version; `counts` is noted in the history.

    `where` names the rows that are written, too. If another writer has committed any such since the table was opened,
    this raises CommitFailedError.
    """
    from deltalake import CommitProperties, write_deltalake

    noted = CommitProperties(custom_metadata={f"{COUNT_PREFIX}{kind}": str(count) for kind, count in counts.items()})
    write_deltalake(table, _plain(rows, table), mode="overwrite", predicate=where, commit_properties=noted)
    return int(table.version())


def rows_with(keys: pl.DataFrame, exactly: bool) -> str:
    """SQL for the rows that have one of these keys (columns of text, `uri` among them), or, not `exactly`, lie between.

    The range of each column lets delta-rs skip files, and tells it what another writer's commit touches. It is of the
    key and not of the partition: a name that is asked for another capability replaces its rows.
    """
    ranges = [
        f"{name} BETWEEN {sql_literal(str(keys[name].min()))} AND {sql_literal(str(keys[name].max()))}"
        for name in keys.columns
    ]
    return " AND ".join([*ranges, _among(keys)] if exactly else ranges)


def _among(keys: pl.DataFrame) -> str:
    others = [name for name in keys.columns if name != "uri"]
    groups = keys.group_by(others, maintain_order=True) if others else [((), keys)]
    same = []
    for values, group in groups:
        terms = [f"{name} = {sql_literal(str(value))}" for name, value in zip(others, values, strict=True)]
        same.append(" AND ".join([*terms, f"uri IN ({', '.join(map(sql_literal, group['uri']))})"]))
    return f"({' OR '.join(same)})"


def _plain(rows: pl.DataFrame, table: Any) -> Any:
    """Rows as a `pyarrow.RecordBatchReader` in the types of the table's own schema."""
    import pyarrow as pa

    schema = pa.schema(table.schema().to_arrow())
    parts = rows.select(schema.names).iter_slices(_ROWS_PER_BATCH)
    batches = (batch for part in parts for batch in part.to_arrow().cast(schema).to_batches())
    return pa.RecordBatchReader.from_batches(schema, batches)


def sql_literal(text: str) -> str:
    """Text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
