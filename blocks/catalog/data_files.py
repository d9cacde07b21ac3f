"""The Parquet files of one open Delta table: which of them may hold a key, what is in them, and new ones.

Files are written here and not by delta-rs where rows are replaced, since its overwrite looks for them twice and takes
four times as long as writing their files anew. https://github.com/delta-io/delta/blob/master/PROTOCOL.md says what a
file's entry in the log holds ("Add File").
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import polars as pl

from sightflow.blocks.catalog.file_content import contents, rows_at_once, texts_of_few_values
from sightflow.blocks.store.backend import DELTA_CASTS
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

KEY: Final = ["uri", "enrichment"]
FILE_BYTES: Final = 32 * 2**20
"""About how large a file becomes: to change one row of a file is to write all of it."""
_ROWS_READ = 8192
_URIS_NAMED = 10_000  # more are only told by their range


@dataclass(frozen=True)
class DataFile:
    """A file that the table holds. `rows`, and `first` and `last`, bounds of its URIs: None if the log does not say."""

    path: str
    size: int
    rows: int | None
    partition: Mapping[str, str | None]
    first: str | None
    last: str | None

    def may_hold(self, uris: Sequence[str]) -> bool:
        """Whether one of these, in order, lies within its bounds."""
        if self.first is None or self.last is None:
            return True
        return bisect_left(uris, self.first) < bisect_right(uris, self.last)


class DataFiles:
    """The files of an open table (`deltalake.DeltaTable`), as of its version, in a folder of a store."""

    def __init__(self, table: Any, store: ObjectStore, folder: str) -> None:
        import pyarrow as pa

        self.table, self.version = table, int(table.version())
        if "deletionVectors" in (table.protocol().reader_features or []):
            raise StoreError(
                f"the table {folder} has deletion vectors, which are not written here: rows that they hide would come "
                "back; remove them (REORG TABLE ... APPLY (PURGE)) and the table feature where they were made"
            )
        self.schema = pa.schema(table.schema().to_arrow())
        self.partition_columns: list[str] = table.metadata().partition_columns
        self._store, self._folder = store, folder
        self._in_files = pa.schema([field for field in self.schema if field.name not in self.partition_columns])

    def listed(self) -> list[DataFile]:
        """Every file that the table holds."""
        entries = pl.DataFrame(self.table.get_add_actions(flatten=True))
        return [
            DataFile(
                path=entry["path"],
                size=entry["size_bytes"],
                rows=entry.get("num_records"),
                partition={column: entry[f"partition.{column}"] for column in self.partition_columns},
                first=entry.get("min.uri"),
                last=entry.get("max.uri"),
            )
            for entry in entries.iter_rows(named=True)
        ]

    # --- reading --------------------------------------------------------------------------------

    def find(self, keys: pl.DataFrame, columns: Sequence[str]) -> tuple[pl.DataFrame, dict[str, DataFile]]:
        """Where the table holds these keys: `path`, the key and more columns of each row; and its files by path.

        Of the files within whose bounds a URI lies, the key and these columns are read.
        """
        wanted = keys.select(KEY).unique()
        uris = wanted["uri"].unique().sort().to_list()
        files = {file.path: file for file in self.listed() if file.may_hold(uris)}
        names = list(dict.fromkeys(["path", *KEY, *columns]))
        if not files:
            return pl.DataFrame(schema=dict.fromkeys(names, pl.String())), files
        within = pl.col("uri").is_between(pl.lit(uris[0]), pl.lit(uris[-1]))
        if len(uris) <= _URIS_NAMED:
            within &= pl.col("uri").is_in(uris)  # by which row groups are passed over
        rows = self._scan(list(files)).filter(within).select(names)
        return rows.join(wanted.lazy(), on=KEY, how="semi").collect(engine="streaming"), files

    def keys_in(self, path: str) -> pl.DataFrame:
        """The keys in a file that lies there, whether or not the table still holds it."""
        return self._scan([path]).select(KEY).collect().cast(dict.fromkeys(KEY, pl.String()))

    def between(self, files: Iterable[DataFile], column: str, first: str, before: str | None) -> pl.LazyFrame:
        """The rows of some files of one partition whose text in a column lies in a range."""
        rows = pl.concat([self._scan([file.path]) for file in files], how="diagonal_relaxed")
        if before is not None:  # what has no value comes first
            rows = rows.filter((pl.col(column) < before) | (pl.col(column).is_null() & (first == "")))
        return rows.filter(pl.col(column) >= first) if first else rows

    def _scan(self, paths: Sequence[str]) -> pl.LazyFrame:
        """The rows of files in the table's own types, lazily, each with its `path`. What a file lacks is null."""
        root = self._store.delta_table_uri(self._folder).rstrip("/")
        rows = pl.scan_parquet(
            [f"{root}/{path}" for path in paths],
            glob=False,
            hive_partitioning=False,
            include_file_paths="path",
            schema=pl.DataFrame(self._in_files.empty_table()).schema,
            missing_columns="insert",
            extra_columns="ignore",
            cast_options=DELTA_CASTS,
            storage_options=self._store.delta_options(self._folder) or None,
        )
        return rows.with_columns(pl.col("path").str.slice(len(root) + 1))

    def batches(self, file: DataFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Columns of the rows of a file, in order, as far as the file has them and in its own types.

        Also `regions.label`, of the structs in a list.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetFile(pa.BufferReader(self._content(file))) as parquet:
            yield from parquet.iter_batches(_ROWS_READ, columns=_leaves(parquet.schema, columns))

    def rows(self, file: DataFile) -> Iterator[pa.RecordBatch]:
        """The rows of a file, in order, in the types of the table's own schema, to be written anew.

        Flat texts of few values come as dictionaries of these, one a batch.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        content = pa.BufferReader(self._content(file))
        with pq.ParquetFile(content) as parquet:
            footer, plain = parquet.metadata, parquet.schema_arrow.equals(self._in_files)
        few = texts_of_few_values(footer, self._in_files) if plain else []
        content.seek(0)
        with pq.ParquetFile(content, read_dictionary=few) as parquet:
            for batch in parquet.iter_batches(rows_at_once(footer)):
                # Other types come of delta-rs' merge in earlier versions, which Arrow cannot cast within lists.
                yield batch if plain else self.arrow(pl.DataFrame(batch))

    def _content(self, file: DataFile) -> bytes:
        content = self._store.read(f"{self._folder}/{file.path}")
        if content is None:
            raise FileNotFoundError(f"{file.path}, which the table holds, is gone")
        return content

    def log_entry(self, version: int) -> bytes | None:
        """What a commit wrote into the log; None if it is not there."""
        return self._store.read(f"{self._folder}/_delta_log/{version:020d}.json")

    def arrow(self, rows: pl.DataFrame) -> pa.RecordBatch:
        """Rows as they stand in a file: the types of the table's schema, without the partition's columns.

        What rows of an earlier file have no column for is null.
        """
        import pyarrow as pa

        missing = [name for name in self._in_files.names if name not in rows.columns]
        table = (
            rows.with_columns(pl.lit(None).alias(name) for name in missing)
            .select(self._in_files.names)
            .to_arrow()
            .cast(self._in_files)
            .combine_chunks()
        )
        return (table.to_batches() or [pa.RecordBatch.from_pylist([], self._in_files)])[0]

    # --- writing --------------------------------------------------------------------------------

    def write(
        self,
        batches: Iterable[pa.RecordBatch],
        partition: Mapping[str, str | None],
        data_change: bool = True,
        most_bytes: int = FILE_BYTES,
    ) -> list[Any]:
        """Write rows into new files of about so many bytes; return them as `deltalake.transaction.AddAction`.

        No version of the table holds them before they are committed.
        """
        from deltalake.transaction import AddAction

        folder = "".join(f"{column}={partition[column]}/" for column in self.partition_columns)
        added = list[Any]()
        for file in contents(batches, most_bytes):
            path = f"{folder}part-00000-{uuid4()}-c000.zstd.parquet"
            self._store.write(f"{self._folder}/{path}", file.content)
            # Escaped, characters beyond U+FFFF come back from delta-rs as others.
            statistics = json.dumps(file.statistics, ensure_ascii=False)
            added.append(AddAction(path, len(file.content), partition, _now(), data_change, statistics))
        return added

    def remove(self, paths: Iterable[str]) -> None:
        """Take away files that no commit names; one that stays is left to the vacuum."""
        for path in paths:
            with suppress(StoreError):
                self._store.remove(f"{self._folder}/{path}")

    def commit(
        self, added: Sequence[Any], removed: Iterable[DataFile], data_change: bool, noted: Mapping[str, str]
    ) -> int:
        """Commit files as the table's very next version, which is returned; `noted` stands in the history.

        Raises CommitFailedError if another writer has taken that version.
        """
        from deltalake import CommitProperties
        from deltalake.transaction import RemoveAction

        gone = [
            RemoveAction(file.path, data_change, _now(), file.size, dict(file.partition) or None) for file in removed
        ]
        self.table.create_write_transaction(
            [*added, *gone],
            "append",
            self.table.schema(),
            self.partition_columns,
            commit_properties=CommitProperties(custom_metadata=dict(noted), max_commit_retries=0),
        )
        return self.version + 1


def _leaves(schema: Any, columns: Sequence[str]) -> list[str]:
    """The columns that Parquet has for these: what lies in a list is `regions.list.element.label` there."""
    wanted = {tuple(column.split(".")) for column in columns}
    paths = [schema.column(place).path for place in range(len(schema))]
    return [path for path in paths if {tuple(path.split(".")[:1]), (path.split(".")[0], path.split(".")[-1])} & wanted]


def _now() -> int:
    return int(time.time() * 1000)
