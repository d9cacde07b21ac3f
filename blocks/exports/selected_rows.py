"""The rows of an export: chosen by SQL in the sandbox, sorted by object, and kept beside it until the export is done.

The sorted rows are a Parquet file in the folder's state, so that a killed export goes on with the same ones whatever
the catalog has become, a format can go through them more than once, and no more than one batch of them is in memory.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import polars as pl

from sightflow.blocks.catalog.catalog import SCHEMAS, Catalog
from sightflow.blocks.catalog.labels import Labels
from sightflow.blocks.catalog.sql_views import connect
from sightflow.blocks.catalog.table_writes import sql_literal
from sightflow.blocks.exports.exported import ROW_COLUMNS, ExportedObject, LeftOut
from sightflow.blocks.exports.external_sort import SAMPLED_URIS, ranges_of, sorted_rows
from sightflow.blocks.exports.file_names import FileNames, common_folder
from sightflow.blocks.exports.folder import STATE, ExportFolder
from sightflow.schemas.failure import SpecError

if TYPE_CHECKING:
    import duckdb

Table = Literal["enrichments", "labels"]
MADE_AT: Final = {"enrichments": "inferred_at", "labels": "labelled_at"}
_BATCH = 2048  # rows; with masks some kilobytes each
_QUERY_MEMORY = "512MB"  # of DuckDB, which has only keys to hold; what is more goes to the disk
_OWN = ("object_index", "file")
_TOLD = "selected.json"


@dataclass(frozen=True)
class Wanted:
    """What is to be exported. `where`: SQL of one condition; `enrichments`: names, all if empty; `version`: of the
    table `enrichments`.
    """

    table: Table = "enrichments"
    where: str = ""
    enrichments: tuple[str, ...] = ()
    version: int | None = None


@dataclass(frozen=True)
class SelectedRows:
    """The rows of one export, by object, in the order of URIs.

    `labels`: every label of a region or a track, in order. `enrichments`: the capability of each name; `counts`: its
    rows. `only`: the one enrichment whose rows are given, and the objects that have one; all are, if it is empty.
    """

    path: Path
    table: Table
    objects_count: int
    rows_count: int
    labels: tuple[str, ...]
    enrichments: dict[str, str]
    counts: dict[str, int]
    catalog_version: int | None
    only: str = ""

    def objects(self, start: int = 0, stop: int | None = None) -> Iterator[ExportedObject]:
        """The objects of a range of indices, each with all its rows."""
        stop = self.objects_count if stop is None else stop
        waiting: list[dict[str, Any]] = []
        for frame in self.frames(start, stop):
            for row in frame.iter_rows(named=True):
                if waiting and row["object_index"] != waiting[0]["object_index"]:
                    yield _object(waiting)
                    waiting = []
                waiting.append(row)
        if waiting:
            yield _object(waiting)

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[pl.DataFrame]:
        """The rows of a range of objects, some at a time, with `object_index` and `file`."""
        import pyarrow.parquet as pq

        stop = self.objects_count if stop is None else stop
        with pq.ParquetFile(self.path) as parquet:
            for number in range(parquet.num_row_groups):
                bounds = parquet.metadata.row_group(number).column(0).statistics
                if bounds.max < start or bounds.min >= stop:
                    continue
                frame = pl.DataFrame(parquet.read_row_group(number))
                wanted = pl.col("object_index").is_between(start, stop, closed="left")
                yield frame.filter(wanted & (pl.col("enrichment") == self.only) if self.only else wanted)

    def schema(self) -> pl.Schema:
        """The columns of the table and their types."""
        columns = pl.scan_parquet(self.path).collect_schema()
        return pl.Schema({name: kind for name, kind in columns.items() if name not in _OWN})


def _object(rows: list[dict[str, Any]]) -> ExportedObject:
    index, file = rows[0]["object_index"], rows[0]["file"]
    return ExportedObject(index, file, [{k: v for k, v in row.items() if k not in _OWN} for row in rows])


def select_rows(
    catalog: Catalog,
    wanted: Wanted,
    all_columns: bool,
    folder: ExportFolder,
    left_out: LeftOut,
    refused_folders: re.Pattern[str] | None = None,
) -> SelectedRows:
    """The rows of an export: those that it began with, if it did, or chosen now.

    Left out are rows that are about an earlier version of their object than another row, unless all columns are asked
    for. Raises SpecError if the condition is no SQL or no row meets it, StoreError if the catalog cannot be read.
    """
    if not (folder.state / _TOLD).exists():
        _select(catalog, wanted, all_columns, folder, refused_folders)
    return kept_rows(wanted, folder, left_out)


def kept_rows(wanted: Wanted, folder: ExportFolder, left_out: LeftOut) -> SelectedRows:
    """The rows that an export began with."""
    known = json.loads((folder.state / _TOLD).read_text())
    left_out.add("rows about an earlier version of their object", known.pop("outdated"))
    known["labels"] = tuple(known["labels"])
    return SelectedRows(folder.state / "rows.parquet", wanted.table, **known)


def _select(
    catalog: Catalog,
    wanted: Wanted,
    all_columns: bool,
    folder: ExportFolder,
    refused_folders: re.Pattern[str] | None,
) -> None:
    version = catalog.version() if wanted.version is None else wanted.version
    connection = connect(catalog, version, spill=folder.state / "query.tmp", memory=_QUERY_MEMORY)
    if wanted.table == "labels":  # those of objects that have changed are not used
        usable = Labels(catalog).states().filter(pl.col("state") == "current")
        connection.register("usable_labels", usable.to_arrow())
    schema = row_schema(wanted, all_columns)
    try:
        rows = _rows(connection, wanted)
        bounds, cuts = _bounds(connection, wanted, rows)
        listed = ", ".join(f'"{column}"' for column in schema)
        batches = _batches(catalog, connection, f"SELECT {listed} {rows}", schema)
        in_order = sorted_rows(batches, cuts, folder.state / "sorting.tmp")
        keep_rows(in_order, bounds, wanted, all_columns, folder, version, refused_folders)
    except _sql_errors() as error:
        raise SpecError(f"the rows cannot be selected: {catalog.store.redact(str(error))}") from None
    finally:
        connection.close()


def keep_rows(
    batches: Iterator[pl.DataFrame],
    bounds: tuple[str, str],
    wanted: Wanted,
    all_columns: bool,
    folder: ExportFolder,
    version: int | None,
    refused_folders: re.Pattern[str] | None = None,
) -> None:
    """Keep the rows of an export in its folder. `batches`: in the order of URIs; `bounds`: the first and the last."""
    import pyarrow.parquet as pq

    names = FileNames(common_folder(*bounds), refused_folders)
    spool = _Spool(names, row_schema(wanted, all_columns), not all_columns, MADE_AT[wanted.table])
    with folder.temporary() as path:
        writer = None
        for frame in spool.frames(batches):
            table = frame.to_arrow()
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table.cast(writer.schema))
        if writer is not None:
            writer.close()
        folder.place(path, f"{STATE}/rows.parquet")
    with folder.file(f"{STATE}/{_TOLD}") as file:
        json.dump({**spool.summary(), "catalog_version": version}, file, ensure_ascii=False)


def row_schema(wanted: Wanted, all_columns: bool) -> dict[str, pl.DataType]:
    """The columns that a format wants of the table, and when each row was made."""
    schema = SCHEMAS[wanted.table]
    columns = schema if all_columns else (*ROW_COLUMNS, MADE_AT[wanted.table])
    return {name: schema[name] for name in columns}


def _sql_errors() -> tuple[type[Exception], ...]:
    import duckdb

    return (duckdb.Error,)


# --- SQL --------------------------------------------------------------------------------------------


def _rows(connection: duckdb.DuckDBPyConnection, wanted: Wanted) -> str:
    """The rows of an export in SQL, from FROM on."""
    condition = _condition(connection, wanted)
    if wanted.table == "labels":
        condition += " AND (uri, enrichment) IN (FROM usable_labels SELECT uri, enrichment)"
    if wanted.enrichments:
        condition += f" AND enrichment IN ({', '.join(map(sql_literal, wanted.enrichments))})"
    return f"FROM {wanted.table} WHERE {condition}"


def _bounds(connection: duckdb.DuckDBPyConnection, wanted: Wanted, rows: str) -> tuple[tuple[str, str], list[str]]:
    """The first and the last URI of the rows, and where to cut them into ranges. Raises SpecError if there are none."""
    ((count, first, last),) = connection.execute(f"SELECT count(*), min(uri), max(uri) {rows}").fetchall()
    if not count:
        raise SpecError(f"no row of {wanted.table} is selected; see what is there: sightflow catalog show URI")
    drawn = connection.execute(f"FROM (SELECT uri {rows}) USING SAMPLE reservoir({SAMPLED_URIS} ROWS)").fetchall()
    return (first, last), ranges_of([uri for (uri,) in drawn], count)


def _condition(connection: duckdb.DuckDBPyConnection, wanted: Wanted) -> str:
    """A condition on the rows of the table: the user's own, or that their object meets it in the view `catalog`."""
    import duckdb

    if not wanted.where.strip():
        return "true"
    ways = {
        wanted.table: f"({wanted.where}\n)",
        "catalog": f"uri IN (FROM catalog SELECT uri WHERE ({wanted.where}\n))",
    }
    problems = []
    for place, condition in ways.items():
        query = f"FROM {wanted.table} SELECT count(*) WHERE {condition}"
        try:
            if len(connection.extract_statements(query)) != 1:
                raise SpecError("--where takes one condition, as it follows WHERE in SQL")
            connection.execute(f"EXPLAIN {query}").fetchall()
        except duckdb.Error as error:
            problems.append(f"on {place}: {str(error).splitlines()[0]}")
        else:
            return condition
    raise SpecError(
        "--where is not understood, neither as a condition on a row nor on an object of the view catalog; "
        + "; ".join(problems)
    )


def _batches(
    catalog: Catalog, connection: duckdb.DuckDBPyConnection, query: str, schema: dict[str, pl.DataType]
) -> Iterator[pl.DataFrame]:
    """The rows of a query as frames in the types of the table."""
    relation: Any = connection.sql(query)
    # DuckDB has renamed it in 2.0.
    read = getattr(relation, "to_arrow_reader", None) or relation.fetch_arrow_reader
    with catalog.reading():
        for batch in read(_BATCH):
            frame = pl.DataFrame(batch)
            times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
            yield frame.with_columns(pl.col(times).dt.convert_time_zone("UTC")).cast(schema)  # type: ignore[arg-type]


# --- what is kept -----------------------------------------------------------------------------------


class _Spool:
    """Numbers and names objects as their rows come by, and sees what there is among them."""

    def __init__(self, names: FileNames, schema: dict[str, pl.DataType], drop_outdated: bool, made_at: str) -> None:
        self._names, self._schema, self._drop_outdated, self._made_at = names, schema, drop_outdated, made_at
        self._objects = self._rows = self._outdated = 0
        self._labels: set[str] = set()
        self._enrichments: dict[str, str] = {}
        self._counts = Counter[str]()

    def frames(self, batches: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """The batches again, each of whole objects, with `object_index` and `file`."""
        waiting = pl.DataFrame(schema=self._schema)
        for batch in batches:
            both = pl.concat([waiting, batch])
            is_last = both["uri"] == both["uri"][-1]
            waiting = both.filter(is_last)
            if not is_last.all():
                yield self._numbered(both.filter(~is_last))
        if waiting.height:
            yield self._numbered(waiting)

    def _numbered(self, rows: pl.DataFrame) -> pl.DataFrame:
        if self._drop_outdated:
            newest = pl.col("object_version").sort_by(self._made_at).last().over("uri")
            kept = rows.filter(pl.col("object_version") == newest)
            self._outdated += rows.height - kept.height
            rows = kept
        uris = rows["uri"].unique(maintain_order=True)
        named = pl.DataFrame(
            {
                "uri": uris,
                "object_index": pl.int_range(self._objects, self._objects + len(uris), eager=True),
                "file": [self._names.name(uri) for uri in uris],
            }
        )
        self._objects += len(uris)
        self._rows += rows.height
        for column in ("regions", "tracks"):
            self._labels.update(rows[column].explode().struct.field("label").drop_nulls())
        self._enrichments.update(rows.select("enrichment", "capability").unique().iter_rows())
        self._counts.update(dict(rows["enrichment"].value_counts().iter_rows()))
        # First of all: the statistics of a Parquet file count the leaves of nested columns.
        return rows.join(named, on="uri", how="left", maintain_order="left").select(*_OWN, *self._schema)

    def summary(self) -> dict[str, Any]:
        """What there is among the rows, as `SelectedRows` has it."""
        return {
            "objects_count": self._objects,
            "rows_count": self._rows,
            "outdated": self._outdated,
            "labels": sorted(self._labels),
            "enrichments": dict(sorted(self._enrichments.items())),
            "counts": dict(self._counts),
        }
