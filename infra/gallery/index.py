"""What pages ask of a whole catalog, kept in a DuckDB file: a row an enrichment or failure, a row a region's label.

Delta's files are read once, in the background, without masks, boxes and replies; a commit costs the reading of the
files that it wrote. A page is answered meanwhile from what has been read, and says so. The file lies in a temporary
folder of this process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import pyarrow as pa

from sightflow.blocks.catalog.catalog import Catalog, TableName
from sightflow.blocks.catalog.data_files import DataFile, DataFiles
from sightflow.infra.gallery.filters import Filter
from sightflow.schemas.failure import SightflowError
from sightflow.tasks.runtime.temporary_folder import TemporaryFolder

logger = logging.getLogger(__name__)

_LOOKED_FOR_SECONDS: Final = 2.0  # between two looks for a new version
_PATIENCE_SECONDS: Final = 30.0
_LONGEST_TEXT: Final = 4000
_MOST_NAMES: Final = 500
MOST_MARKS: Final = 2000
_ROWS: Final = {
    "uri": pa.string(),
    "enrichment": pa.string(),
    "capability": pa.string(),
    "media_kind": pa.string(),
    "system": pa.string(),
    "model_id": pa.string(),
    "run_id": pa.string(),
    "made_at": pa.timestamp("us"),
    "cost": pa.float64(),
    "object_version": pa.string(),
    "fingerprint": pa.string(),
    "text": pa.string(),
    "cause": pa.string(),
}
"""Columns of the table `rows`, beside `id`, `file`, and the least and greatest score."""
_FLAT: Final = ("uri", "enrichment", "media_kind", "system", "model_id", "run_id", "object_version", "fingerprint")
_READ: Final[dict[TableName, list[str]]] = {
    "enrichments": [
        *_FLAT, "inferred_at", "cost_usd", "text", "extracted", "segments.text", "regions.label", "regions.score",
        "tracks.label",
    ],
    "quarantine": [*_FLAT[:2], "capability", *_FLAT[3:], "failed_at", "cost_usd", "cause", "message", "raw_reply"],
}  # fmt: skip
_TABLES: Final = """
CREATE TABLE rows (id BIGINT, file INTEGER, uri VARCHAR, enrichment VARCHAR, capability VARCHAR, media_kind VARCHAR,
  system VARCHAR, model_id VARCHAR, run_id VARCHAR, made_at TIMESTAMP, cost DOUBLE, object_version VARCHAR,
  print UBIGINT, text VARCHAR, cause VARCHAR, low DOUBLE, high DOUBLE);
CREATE TABLE marks (row BIGINT, file INTEGER, label VARCHAR, score DOUBLE);
"""
_SETTINGS: Final = {
    "memory_limit": "256MB",
    "threads": "2",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}


@dataclass(frozen=True)
class Progress:
    """How much of the catalog has been read. `error`: why it cannot be read further."""

    rows: int = 0
    total: int = 0
    done: bool = False
    version: int | None = None
    error: str | None = None


class CatalogIndex:
    """The index of one catalog. It follows the catalog's versions as long as pages are asked for."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._folder = TemporaryFolder("gallery")
        self._connection = duckdb.connect(str(self._folder.path / "index.duckdb"), config=dict(_SETTINGS))
        self._connection.execute(_TABLES)
        self._files: dict[str, int] = {}
        self._next_row = 0
        self._versions: tuple[int | None, int | None] | None = None
        self._looked_at = 0.0
        self._reading = threading.Lock()
        self._done = threading.Event()
        self._closing = threading.Event()
        self._reader: threading.Thread | None = None
        self._facets: tuple[Progress, dict[str, list[Any]]] | None = None
        self.progress = Progress()

    def close(self) -> None:
        """Remove the file; what is being read is not read to its end."""
        self._closing.set()
        if self._reader is not None:
            self._reader.join()
        with self._reading:
            self._connection.close()
            self._folder.remove()

    # --- following the catalog ------------------------------------------------------------------

    def known(self, uri: str) -> tuple[str, str | None] | None:
        """As `newest_version`, after what has not been read yet has been, within reason."""
        found = self.newest_version(uri)
        if found is None and not self.progress.done:
            self.follow(_PATIENCE_SECONDS)
            found = self.newest_version(uri)
        return found

    def follow(self, patience: float = 1.0) -> Progress:
        """Look for a new version, in the background, and wait so many seconds at most for what has not been read."""
        if time.monotonic() - self._looked_at > _LOOKED_FOR_SECONDS and not self._reading.locked():
            self._looked_at = time.monotonic()
            first = self._versions is None
            self._reader = threading.Thread(target=self._read, name="index", daemon=True)
            self._reader.start()
            if not first:
                self._reader.join(min(patience, 0.2))
        self._done.wait(patience)
        return self.progress

    def read_all(self) -> None:
        """Read all that the catalog holds now. Raises StoreError if it cannot be."""
        self._looked_at = time.monotonic()
        self._read()
        if self.progress.error:
            raise SightflowError(self.progress.error)

    def _read(self) -> None:
        with self._reading:
            try:
                if not self._closing.is_set():
                    self._take_in()
            except (SightflowError, OSError, duckdb.Error, pa.ArrowException) as error:
                said = self._catalog.store.redact(str(error))
                logger.warning("the catalog cannot be read: %s", said)
                self.progress = Progress(self.progress.rows, self.progress.total, True, self.progress.version, said)
            finally:
                self._done.set()

    def _take_in(self) -> None:
        names: tuple[TableName, ...] = ("enrichments", "quarantine")
        tables = {name: self._catalog.table(name) for name in names}
        versions = tuple(None if table is None else int(table.version()) for table in tables.values())
        if versions == self._versions:
            return
        listed: dict[TableName, tuple[DataFiles, list[DataFile]]] = {}
        for name, table in tables.items():
            if table is not None:
                files = DataFiles(table, self._catalog.store, self._catalog.table_uri(name))
                listed[name] = files, sorted(files.listed(), key=lambda file: file.first or "")
        held = {_key(name, file): (name, file) for name, (_, files) in listed.items() for file in files}
        total = sum(file.rows or 0 for _, file in held.values())
        version = versions[0]
        first = self._versions is None
        if first:
            self.progress = Progress(0, total, False, version)
        writer = self._connection.cursor()
        if not first:
            writer.execute("BEGIN")
        gone = [number for key, number in self._files.items() if key not in held]
        for table_name in ("rows", "marks"):
            writer.execute(f"DELETE FROM {table_name} WHERE list_contains(?, file)", [gone])
        taken = {key: number for key, number in self._files.items() if key in held}
        if first:
            self._files = taken
        read = 0
        try:
            for key, (name, file) in held.items():
                if key not in taken:
                    number = self._next_row  # no two files begin with the same row
                    for batch in listed[name][0].batches(file, _READ[name]):
                        if self._closing.is_set():
                            return
                        self._insert(writer, number, batch, name, file.partition.get("capability"))
                        read += batch.num_rows
                        if first:
                            self.progress = Progress(read, total, False, version)
                    taken[key] = number
                    self._next_row += 1
        except BaseException:  # the next try reads the file that was not read to its end again
            if first:
                for table_name in ("rows", "marks"):
                    writer.execute(f"DELETE FROM {table_name} WHERE NOT list_contains(?, file)", [[*taken.values()]])
            else:
                writer.execute("ROLLBACK")
            raise
        # What failed and has been published since is no failure any more.
        writer.execute(
            "DELETE FROM rows f WHERE f.cause IS NOT NULL AND EXISTS (SELECT 1 FROM rows r WHERE r.uri = f.uri "
            "AND r.enrichment = f.enrichment AND r.print = f.print AND r.cause IS NULL)"
        )
        if not first:
            writer.execute("COMMIT")
            self._files = taken
        self._versions = versions  # type: ignore[assignment]
        self.progress = Progress(total, total, True, version)

    def _insert(
        self, writer: duckdb.DuckDBPyConnection, number: int, batch: pa.RecordBatch, name: TableName, capability: Any
    ) -> None:
        ids = pa.array(range(self._next_row, self._next_row + batch.num_rows), pa.int64())
        self._next_row += batch.num_rows
        writer.register("batch", _with_all(batch, ids))
        capability_of = "capability" if name == "quarantine" else "?"
        time_of, texts = (
            ("failed_at", "concat_ws(' ', message, raw_reply)")
            if name == "quarantine"
            else (
                "inferred_at",
                "concat_ws(' ', text, extracted, array_to_string(list_transform(segments, lambda s: s.text), ' '))",
            )
        )
        writer.execute(
            f"""INSERT INTO rows SELECT id, ?, uri, enrichment, {capability_of}, media_kind, system, model_id, run_id,
            {time_of}, cost_usd, object_version, hash(fingerprint), left({texts}, {_LONGEST_TEXT}), cause,
            list_min(list_transform(regions, lambda r: r.score)), list_max(list_transform(regions, lambda r: r.score))
            FROM batch""",
            [number, *([] if name == "quarantine" else [capability])],
        )
        for column, score in (("regions", "mark.score"), ("tracks", "NULL")):
            writer.execute(
                f"INSERT INTO marks SELECT id, ?, coalesce(mark.label, ''), {score} "
                f"FROM (SELECT id, unnest({column}) AS mark FROM batch WHERE {column} IS NOT NULL)",
                [number],
            )
        writer.unregister("batch")

    # --- asking ---------------------------------------------------------------------------------

    def page(self, wanted: Filter, offset: int, limit: int) -> list[str]:
        """The URIs of so many objects, in the order of the filter."""
        condition, values = wanted.condition()
        asked = f"SELECT uri FROM rows WHERE {condition} GROUP BY uri ORDER BY {wanted.order} LIMIT ? OFFSET ?"
        return [uri for (uri,) in self.ask(asked, [*values, limit, offset])]

    def count(self, wanted: Filter) -> int:
        """How many objects there are."""
        condition, values = wanted.condition()
        return int(self.ask(f"SELECT count(DISTINCT uri) FROM rows WHERE {condition}", values)[0][0])

    def rows(self, uris: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """What is known here of each of some objects: its rows, the newest last, each with its `labels`.

        `marks`: the same, each with its score. Both have the first two thousand of a row.
        """
        columns = ["id", *(name for name in _ROWS if name != "fingerprint"), "low", "high"]
        placeholders = ", ".join("?" * len(uris))
        if not uris:
            return {}
        found = self.ask(
            f"SELECT {', '.join(columns)} FROM rows WHERE uri IN ({placeholders}) ORDER BY made_at, enrichment", uris
        )
        rows = [dict(zip(columns, row, strict=True)) for row in found]
        marks: dict[int, list[tuple[str, float | None]]] = {}
        numbers = ", ".join(str(row["id"]) for row in rows)
        first = f"row_number() OVER (PARTITION BY row ORDER BY rowid) <= {MOST_MARKS:d}"
        asked = f"SELECT row, label, score FROM marks WHERE row IN ({numbers or 'NULL'}) QUALIFY {first}"
        for row, label, score in self.ask(asked, []):
            marks.setdefault(row, []).append((label, score))
        result: dict[str, list[dict[str, Any]]] = {uri: [] for uri in uris}
        for row in rows:
            own = marks.get(row["id"], [])
            result[row["uri"]].append({**row, "marks": own, "labels": [label for label, _ in own]})
        return result

    def newest_version(self, uri: str) -> tuple[str, str | None] | None:
        """The version of an object that was looked at last, and its kind if that is known; None if it is not here."""
        rows = self.rows([uri])[uri]
        if not rows:
            return None
        published = [row for row in rows if row["cause"] is None] or rows
        return str(published[-1]["object_version"]), published[-1]["media_kind"]

    def facets(self) -> dict[str, list[Any]]:
        """The names there are, each with its rows: enrichments, capabilities, systems, causes, kinds and labels."""
        if self._facets is not None and self._facets[0] == self.progress:
            return self._facets[1]
        at, found = self.progress, dict[str, list[Any]]()
        for column in ("enrichment", "capability", "system", "cause", "media_kind"):
            found[column] = self._names(column, "rows")
        found["label"] = self._names("label", "marks")
        if at.done:
            self._facets = at, found
        return found

    def _names(self, column: str, table: str) -> list[tuple[str, int]]:
        rows = self.ask(
            f"SELECT {column}, count(*) AS n FROM {table} WHERE {column} <> '' GROUP BY 1 ORDER BY n DESC, 1 LIMIT ?",
            [_MOST_NAMES],
        )
        return sorted((name, count) for name, count in rows)

    def ask(self, sql: str, values: Iterable[Any]) -> list[tuple[Any, ...]]:
        """The rows of a query of ours over `rows` and `marks`."""
        cursor = self._connection.cursor()
        try:
            return cursor.execute(sql, list(values)).fetchall()
        finally:
            cursor.close()


def _key(name: TableName, file: DataFile) -> str:
    return f"{name}/{file.path}"


def _with_all(batch: pa.RecordBatch, ids: pa.Array) -> pa.Table:
    """A batch with every column that is asked of it, null where its file has none; times without their zone, UTC."""
    columns: dict[str, Any] = {"id": ids}
    for name in batch.schema.names:
        column = batch.column(name)
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
            columns[name] = pa.nulls(batch.num_rows, kind)
    return pa.table(columns)
