"""From a pandera model to polars: the columns that it lists, and frames that have exactly those.

The model is the only list of a table's columns. What is derived here is what lies on disk, so an order or a type that
comes out otherwise is another table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from sightflow.schemas.tables.deferred_pandera import DataFrameModel


def polars_schema(model: type[DataFrameModel]) -> dict[str, pl.DataType]:
    """The columns of a model, in its order, as polars types. Polars and Arrow let every one of them be null."""
    return {name: kind for name, (kind, _) in model.columns.items()}


def column_comments(model: type[DataFrameModel]) -> dict[str, str]:
    """What each column of a model means, for the reader of a table."""
    return {name: description for name, (_, description) in model.columns.items()}


def to_frame(model: type[DataFrameModel], rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as a frame in the form of a model, not yet checked.

    Raises TypeError, with the names, if a row lacks a column of the model or has another one: polars would fill the
    one with nulls and drop the other.
    """
    schema = polars_schema(model)
    for row in rows:
        if row.keys() != schema.keys():
            problems = {"missing": schema.keys() - row.keys(), "unknown": row.keys() - schema.keys()}
            named = (f"{problem}: {', '.join(sorted(names))}" for problem, names in problems.items() if names)
            raise TypeError(f"a row is no {model.__name__}; {'; '.join(named)}")
    return pl.DataFrame(rows, schema=schema)


def storable(text: str | None) -> str | None:
    """Text as UTF-8 can hold it, what cannot be written escaped."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")
