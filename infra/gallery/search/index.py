"""What pages ask of a whole catalog, kept in a DuckDB file: a row an enrichment or failure, a row a region's label.

Delta's files are read once, in the background, without masks, boxes and replies; a commit costs the reading of the
files that it wrote. A page is answered meanwhile from what has been read, and says so. The file lies in a temporary
folder of this process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import duckdb
import pyarrow as pa

from sightflow.blocks.catalog.catalog import Catalog, TableName
from sightflow.blocks.catalog.data_files import DataFile, DataFiles
from sightflow.infra.gallery.search.filters import Filter
from sightflow.infra.gallery.search.index_rows import COLUMNS, COLUMNS_READ, TABLES, insert, joined
from sightflow.schemas.failure import SightflowError
from sightflow.tasks.runtime.temporary_folder import TemporaryFolder

logger = logging.getLogger(__name__)

_LOOKED_FOR_SECONDS: Final = 2.0  # between two looks for a new version
_PATIENCE_SECONDS: Final = 30.0
_MOST_COUNTS: Final = 500
_MOST_NAMES: Final = 500
MOST_MARKS: Final = 2000
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
        self._connection.execute(TABLES)
        self._files: dict[str, int] = {}
        self._next_row = 0
        self._versions: tuple[int | None, int | None] | None = None
        self._looked_at = 0.0
        self._reading = threading.Lock()
        self._done = threading.Event()
        self._closing = threading.Event()
        self._reader: threading.Thread | None = None
        self._facets: tuple[Progress, dict[str, list[Any]]] | None = None
        self._counts: dict[tuple[Progress, Filter], int] = {}
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
                    for rows in joined(self._until_closing(listed[name][0].batches(file, COLUMNS_READ[name]))):
                        insert(writer, rows, name, self._next_row, number, file.partition.get("capability"))
                        self._next_row += rows.num_rows
                        read += rows.num_rows
                        if first:
                            self.progress = Progress(read, total, False, version)
                    if self._closing.is_set():
                        return
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

    def _until_closing(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if self._closing.is_set():
                return
            yield batch

    # --- asking ---------------------------------------------------------------------------------

    def page(self, wanted: Filter, offset: int, limit: int) -> list[str]:
        """The URIs of so many objects, in the order of the filter."""
        if wanted.sort in ("uri", "-uri"):
            return self._first_uris(wanted, offset + limit)[offset:]
        condition, values = wanted.condition()
        grouped = f"SELECT object FROM rows WHERE {condition} GROUP BY object"
        asked = f"{grouped} ORDER BY {wanted.order}, object LIMIT ? OFFSET ?"
        objects = [number for (number,) in self.ask(asked, [*values, limit, offset])]
        listed = ", ".join(map(str, objects)) or "NULL"
        uris = dict(self.ask(f"SELECT object, any_value(uri) FROM rows WHERE object IN ({listed}) GROUP BY object", []))
        return [uris[number] for number in objects]

    def _first_uris(self, wanted: Filter, count: int) -> list[str]:
        """So many URIs, each once, in order: of ever more rows the first, since to sort them all takes longer."""
        condition, values = wanted.condition()
        taken = 8 * count
        while True:
            asked = f"SELECT uri FROM rows WHERE {condition} ORDER BY {wanted.order} LIMIT ?"
            rows = self.ask(asked, [*values, taken])
            uris = list(dict.fromkeys(uri for (uri,) in rows))
            if len(uris) >= count or len(rows) < taken:
                return uris[:count]
            taken *= 4

    def count(self, wanted: Filter) -> int:
        """How many objects there are."""
        key = self.progress, replace(wanted, sort="uri")
        if key not in self._counts:
            condition, values = wanted.condition()
            if len(self._counts) >= _MOST_COUNTS:
                self._counts.clear()
            self._counts[key] = int(
                self.ask(f"SELECT count(DISTINCT object) FROM rows WHERE {condition}", values)[0][0]
            )
        return self._counts[key]

    def rows(self, uris: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """What is known here of each of some objects: its rows, the newest last, each with its `labels`.

        `marks`: the same, each with its score. Both have the first two thousand of a row.
        """
        columns = ["id", *COLUMNS, "low", "high"]
        placeholders = ", ".join(["hash(?::VARCHAR)"] * len(uris))
        if not uris:
            return {}
        found = self.ask(
            f"SELECT {', '.join(columns)} FROM rows WHERE object IN ({placeholders}) ORDER BY made_at, enrichment", uris
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
            if row["uri"] not in result:
                continue  # the same 64 bits
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
