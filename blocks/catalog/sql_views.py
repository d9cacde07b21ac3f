"""SQL over a catalog: DuckDB with the view a person wants and the tables behind it."""

from __future__ import annotations

from typing import Any

import duckdb
import polars as pl

from sightflow.blocks.catalog.catalog import SCHEMAS, TABLES, Catalog, TableName
from sightflow.schemas.capability import TEXT_CAPABILITIES, Capability

_OBJECT_COLUMNS = ("media_kind", "width", "height", "duration", "object_version")


def connect(catalog: Catalog, version: int | None = None) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB connection with four views; it can read nothing else, neither files nor the network.

    `catalog`: one row an object, a column an enrichment (text, regions or tracks); `enrichments`, `quarantine`
    and `runs`: the tables as they are. `version`: of `enrichments`; unset, the newest.
    """
    connection = duckdb.connect(":memory:")
    enrichments = _dataset(catalog, "enrichments", version)
    for name in TABLES:
        connection.register(name, enrichments if name == "enrichments" else _dataset(catalog, name, None))
    names = catalog.scan("enrichments", version).select("enrichment", "capability").unique()
    named = catalog.read(names).sort("enrichment")
    connection.execute(f"CREATE VIEW catalog AS {_wide_view(named)}")
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    return connection


def _dataset(catalog: Catalog, name: TableName, version: int | None) -> Any:
    table = catalog.table(name, version)
    if table is None:
        return pl.DataFrame(schema=SCHEMAS[name]).to_arrow()
    return table.to_pyarrow_dataset()


def _wide_view(enrichments: pl.DataFrame) -> str:
    columns = ["uri", *(f"any_value({column}) AS {column}" for column in _OBJECT_COLUMNS)]
    for name, capability in enrichments.iter_rows():
        value = _value_column(Capability(capability))
        columns.append(f"any_value({value}) FILTER (enrichment = '{name}') AS \"{name}\"")
    return f"SELECT {', '.join(columns)}, max(inferred_at) AS inferred_at FROM enrichments GROUP BY uri"  # noqa: S608


def _value_column(capability: Capability) -> str:
    if capability in TEXT_CAPABILITIES:
        return "text"
    return "tracks" if capability is Capability.OBJECT_TRACKING else "regions"
