"""How rows get into a Delta table: in plain types, in one commit each.

Not by delta-rs' own merge, update and delete: those write text in an encoding of their own ("string view"), and
pyarrow, by which pandas and DuckDB read too, cannot filter such a column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


def later_columns(wanted: Mapping[str, pl.DataType], fields: Sequence[Any]) -> dict[str, pl.DataType]:
    """The columns which a table (its fields as `deltalake.Field`) has not, or not with every field within them."""
    there = {path for field in fields for path in _paths_in_table(field.name, field.type)}
    return {name: kind for name, kind in wanted.items() if not there.issuperset(_paths(name, kind))}


def _paths(name: str, kind: Any) -> Iterator[str]:
    """A column and every field within it, by the names that lead there."""
    yield name
    while isinstance(kind, pl.List):
        kind = kind.inner
    for field in kind.fields if isinstance(kind, pl.Struct) else ():
        yield from _paths(f"{name}.{field.name}", field.dtype)


def _paths_in_table(name: str, kind: Any) -> Iterator[str]:
    yield name
    while element := getattr(kind, "element_type", None):
        kind = element
    for field in getattr(kind, "fields", ()):
        yield from _paths_in_table(f"{name}.{field.name}", field.type)


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
