"""SQL over a catalog: DuckDB with the view a person wants and the tables behind it."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from sightflow.blocks.catalog.catalog import SCHEMAS, TABLES, Catalog, TableName
from sightflow.blocks.catalog.table_writes import later_columns, sql_literal
from sightflow.schemas.capability import TEXT_CAPABILITIES, Capability
from sightflow.schemas.enrichment import NAME_PATTERN, OBJECT_COLUMNS, RESERVED_NAMES
from sightflow.schemas.extraction.columns import structure
from sightflow.schemas.extraction.json_schema import UnsupportedSchema, normalized
from sightflow.schemas.failure import StoreError

_FOOTERS_AT_ONCE = 16
_SANDBOX = {
    "enable_external_access": "false",  # before any statement is run: no file, no network, no extension
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "memory_limit": "50%",  # of the machine's; a query that needs more fails
}


def connect(
    catalog: Catalog, version: int | None = None, spill: Path | None = None, memory: str | None = None
) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB connection with views of the catalog; it can read nothing else, neither files nor the network.

    `catalog`: one row an object, a column an enrichment (text, regions, tracks or a STRUCT of fields); beside it each
    table as it is: `enrichments`, `quarantine`, `runs`, `batches`, `labels`, `label_history`. `version`: of
    `enrichments`; unset, the newest. `memory`: the most that a query takes, e.g. `1GB`; unset, half of the machine's.
    `spill`: a folder for what a sort has no memory for. Raises StoreError if the catalog cannot be read.
    """
    settings: dict[str, str | bool | int | float | list[str]] = dict(_SANDBOX)
    settings |= {"memory_limit": memory} if memory else {}
    settings |= {"temp_directory": str(spill)} if spill else {}
    connection = duckdb.connect(":memory:", config=settings)
    connection.execute("SET enable_progress_bar = false")  # it would be drawn between the lines of a command
    for name in TABLES:
        connection.register(name, _source(catalog, name, version if name == "enrichments" else None))
    connection.execute(f"CREATE VIEW catalog AS {wide_view(catalog, version)}")
    connection.execute("SET lock_configuration = true")
    return connection


def read_wide(catalog: Catalog, version: int | None = None) -> pl.DataFrame:
    """The rows of the view `catalog`. Raises StoreError if the catalog cannot be read."""
    try:
        rows: pl.DataFrame = connect(catalog, version).table("catalog").pl()
    except duckdb.Error as error:
        raise StoreError(f"the catalog {catalog.uri} cannot be read: {catalog.store.redact(str(error))}") from None
    return rows


def _source(catalog: Catalog, name: TableName, version: int | None) -> Any:
    """A table as DuckDB can read it: what is asked of it is looked for in the files that can have it."""
    table = catalog.table(name, version)
    if table is None:
        return pl.DataFrame(schema=SCHEMAS[name]).to_arrow()
    if later_columns(SCHEMAS[name], table.schema().fields):
        return catalog.scan(name, version)  # as an earlier version has made it: what has come since is null
    dataset = table.to_pyarrow_dataset()
    with catalog.reading(), ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        footers = list(pool.map(lambda file: file.physical_schema, dataset.get_fragments()))
    in_files = set(SCHEMAS[name]) - set(table.metadata().partition_columns)
    if any(in_files - set(footer.names) for footer in footers):
        return catalog.scan(name, version)  # files from before a column: pyarrow would take their nulls for none
    # Pyarrow cannot filter files that delta-rs' own merge has written, as it did for earlier versions of this program.
    # Polars can, but holds the columns that are asked for in memory.
    return catalog.scan(name, version) if any("string_view" in str(footer) for footer in footers) else dataset


def wide_view(catalog: Catalog, version: int | None = None) -> str:
    """The view `catalog` as a query of standard SQL over `enrichments`: for a person, so that bookkeeping comes last.

    Names come out of the catalog, which is data: one that no spec could give, or of a capability that is not known
    here, has no column, and the others are quoted. While the rows of a name are replaced by those of another
    capability, the column holds the newest kind; extracted fields are typed by the newest schema, and what a row of an
    earlier one lacks, or has of another type, is null. Raises StoreError if the catalog cannot be read.
    """
    named = catalog.scan("enrichments", version).group_by("enrichment", "capability").agg(pl.max("inferred_at"))
    known = {str(capability) for capability in Capability}
    values: dict[str, str] = {}
    for name, capability, _ in catalog.read(named).sort("inferred_at", "capability", nulls_last=False).iter_rows():
        if capability in known and re.fullmatch(NAME_PATTERN, name) and name not in RESERVED_NAMES:
            values[name] = _value_column(Capability(capability))
            if capability == Capability.STRUCTURED_EXTRACTION:
                values[name] = _fields_column(_newest_schema(catalog, name, version))
    columns = [
        "uri",
        *(
            f"any_value({value}) FILTER (WHERE enrichment = {sql_literal(name)}) AS {_identifier(name)}"
            for name, value in sorted(values.items())
        ),
        *(f"any_value({column}) AS {column}" for column in OBJECT_COLUMNS),
        "max(inferred_at) AS inferred_at",
    ]
    listed = ",\n  ".join(columns)
    return f"SELECT\n  {listed}\nFROM enrichments\nGROUP BY uri"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _newest_schema(catalog: Catalog, name: str, version: int | None) -> Any:
    """The schema by which the newest row of a name was extracted, as the row's parameters have it; None if unread."""
    rows = catalog.scan("enrichments", version).filter(
        (pl.col("enrichment") == name) & (pl.col("capability") == str(Capability.STRUCTURED_EXTRACTION))
    )
    newest = catalog.read(rows.group_by("parameters").agg(pl.max("inferred_at"))).sort("inferred_at", "parameters")
    try:
        return json.loads(newest["parameters"][-1]).get("schema")
    except (ValueError, AttributeError, RecursionError):
        return None


def _fields_column(schema: Any) -> str:
    """Extracted fields as a STRUCT; as JSON text, if what the catalog holds as their schema is none."""
    try:
        typed = structure(normalized(schema))
    except UnsupportedSchema:
        return "extracted"
    return f"from_json(extracted, {sql_literal(json.dumps(typed, ensure_ascii=False))})"


def _value_column(capability: Capability) -> str:
    if capability in TEXT_CAPABILITIES:
        return "text"
    return "tracks" if capability is Capability.OBJECT_TRACKING else "regions"
