"""How rows get into a Delta table: in plain types, in one commit each.

Not by delta-rs' own merge, update and delete: those write text in an encoding of their own ("string view"), and
pyarrow, by which pandas and DuckDB read too, cannot filter such a column.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from sightflow.blocks.catalog.commit_log import COUNT_PREFIX
from sightflow.schemas.tables.deferred_pandera import DataFrameModel
from sightflow.schemas.tables.frames import column_comments, polars_schema

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
