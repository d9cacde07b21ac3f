"""SQL over a catalog: DuckDB with the view a person wants and the tables behind it."""

from __future__ import annotations

import re
from typing import Any

import duckdb
import polars as pl

from sightflow.blocks.catalog.catalog import SCHEMAS, TABLES, Catalog, TableName, sql_literal
from sightflow.schemas.capability import TEXT_CAPABILITIES, Capability
from sightflow.schemas.enrichment import NAME_PATTERN, OBJECT_COLUMNS, RESERVED_NAMES

_SANDBOX = {
    "enable_external_access": "false",  # before any statement is run: no file, no network, no extension
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "memory_limit": "50%",  # of the machine's; a query that needs more fails
}


def connect(catalog: Catalog, version: int | None = None) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB connection with four views; it can read nothing else, neither files nor the network.

    `catalog`: one row an object, a column an enrichment (text, regions or tracks); `enrichments`, `quarantine`
    and `runs`: the tables as they are. `version`: of `enrichments`; unset, the newest.
    """
    connection = duckdb.connect(":memory:", config=dict(_SANDBOX))
    enrichments = _dataset(catalog, "enrichments", version)
    for name in TABLES:
        connection.register(name, enrichments if name == "enrichments" else _dataset(catalog, name, None))
    names = catalog.scan("enrichments", version).select("enrichment", "capability").unique()
    named = catalog.read(names).sort("enrichment")
    connection.execute(f"CREATE VIEW catalog AS {_wide_view(named)}")
    connection.execute("SET lock_configuration = true")
    return connection


def _dataset(catalog: Catalog, name: TableName, version: int | None) -> Any:
    table = catalog.table(name, version)
    if table is None:
        return pl.DataFrame(schema=SCHEMAS[name]).to_arrow()
    return table.to_pyarrow_dataset()


def _wide_view(enrichments: pl.DataFrame) -> str:
    """The view with a column an enrichment. Names come out of the catalog, which is data: one that no spec could give,
    or of a capability that is not known here, has no column, and the others are quoted.
    """
    columns = ["uri", *(f"any_value({column}) AS {column}" for column in OBJECT_COLUMNS)]
    known = {str(capability) for capability in Capability}
    for name, capability in enrichments.iter_rows():
        if capability in known and re.fullmatch(NAME_PATTERN, name) and name not in RESERVED_NAMES:
            value = _value_column(Capability(capability))
            columns.append(f"any_value({value}) FILTER (enrichment = {sql_literal(name)}) AS {_identifier(name)}")
    return f"SELECT {', '.join(columns)}, max(inferred_at) AS inferred_at FROM enrichments GROUP BY uri"  # noqa: S608


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _value_column(capability: Capability) -> str:
    if capability in TEXT_CAPABILITIES:
        return "text"
    return "tracks" if capability is Capability.OBJECT_TRACKING else "regions"
