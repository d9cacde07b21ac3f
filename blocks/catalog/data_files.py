"""The Parquet files of one open Delta table: which of them may hold a key, what is in them, and new ones.

Files are written here and not by delta-rs where rows are replaced, since its overwrite looks for them twice and takes
four times as long as writing their files anew. https://github.com/delta-io/delta/blob/master/PROTOCOL.md says what a
file's entry in the log holds ("Add File", "Per-file Statistics").
"""

from __future__ import annotations

import io
import json
import math
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import polars as pl

from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

KEY: Final = ["uri", "enrichment"]
FILE_BYTES: Final = 32 * 2**20
"""About how large a file becomes: to change one row of a file is to write all of it."""
_ROWS_READ = 8192
_GROUP_ROWS, _GROUP_BYTES = 65_536, 64 * 2**20  # of a row group: what a reader of few keys reads at least
_LONGEST_STATISTIC = 256  # characters; the bounds of a longer text are shortened, but for a URI
_AFTER_SURROGATES = 0xE000
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
        """The rows of files, lazily, each with its `path`."""
        root = self._store.delta_table_uri(self._folder).rstrip("/")
        rows = pl.scan_parquet(
            [f"{root}/{path}" for path in paths],
            glob=False,
            hive_partitioning=False,
            include_file_paths="path",
            missing_columns="insert",
            extra_columns="ignore",
            storage_options=self._store.delta_options(self._folder) or None,
        )
        return rows.with_columns(pl.col("path").str.slice(len(root) + 1))

    def batches(self, file: DataFile, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of a file, in order, in the types of the table's own schema, without the partition's columns.

        `columns`: of those only these, also `regions.label` of the structs in a list, as far as the file has them, and
        in its own types.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        content = self._store.read(f"{self._folder}/{file.path}")
        if content is None:
            raise FileNotFoundError(f"{file.path}, which the table holds, is gone")
        with pq.ParquetFile(pa.BufferReader(content)) as parquet:
            if columns is not None:
                yield from parquet.iter_batches(_ROWS_READ, columns=_leaves(parquet.schema, columns))
                return
            for batch in parquet.iter_batches(_ROWS_READ):
                yield self._plain(batch)

    def log_entry(self, version: int) -> bytes | None:
        """What a commit wrote into the log; None if it is not there."""
        return self._store.read(f"{self._folder}/_delta_log/{version:020d}.json")

    def _plain(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if batch.schema.equals(self._in_files):
            return batch
        # Other types come of delta-rs' merge in earlier versions, which Arrow cannot cast within lists.
        return self.arrow(pl.DataFrame(batch))

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
        import pyarrow.parquet as pq
        from deltalake.transaction import AddAction

        folder = "".join(f"{column}={partition[column]}/" for column in self.partition_columns)
        groups, added = _row_groups(batches), list[Any]()
        for group in groups:
            path = f"{folder}part-00000-{uuid4()}-c000.zstd.parquet"
            content, footers, texts = io.BytesIO(), list[Any](), _Seen(self._in_files)
            with pq.ParquetWriter(
                content, self._in_files, compression="zstd", store_schema=False, metadata_collector=footers
            ) as writer:
                for part in chain([group], groups):
                    writer.write_table(part, row_group_size=part.num_rows)
                    texts.see(part)
                    if content.tell() >= most_bytes:
                        break
            self._store.write(f"{self._folder}/{path}", content.getvalue())
            # Escaped, characters beyond U+FFFF come back from delta-rs as others.
            statistics = json.dumps(_statistics(footers[0], texts), ensure_ascii=False)
            added.append(AddAction(path, content.tell(), partition, _now(), data_change, statistics))
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


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches put together until they are a row group."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        waiting.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield pa.Table.from_batches(waiting)
            waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.Table.from_batches(waiting)


class _Seen:
    """What a file's footer does not tell of what is written: nulls of every flat column, and bounds of long texts."""

    def __init__(self, schema: pa.Schema) -> None:
        import pyarrow as pa

        self.nulls = {field.name: 0 for field in schema if not pa.types.is_nested(field.type)}
        self._texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        self.least: dict[str, str] = {}
        self.most: dict[str, str] = {}

    def see(self, rows: pa.Table) -> None:
        """Take in what is written."""
        import pyarrow.compute as pc

        for name in self.nulls:
            self.nulls[name] += rows[name].null_count
        for name in self._texts:
            least, most = pc.min_max(rows[name]).as_py().values()
            if least is not None:
                self.least[name] = min(self.least.get(name, least), least)
                self.most[name] = max(self.most.get(name, most), most)


def _statistics(footer: Any, seen: _Seen) -> dict[str, Any]:
    """A file's statistics as the log has them; of what is nested there are none.

    Every flat column that holds a value has bounds, those of long texts shortened: readers skip a whole file whose
    entry has bounds, and none of the column that they ask for.
    """
    least: dict[str, Any] = {name: _below(name, text) for name, text in seen.least.items()}
    most: dict[str, Any] = {name: _above(name, text) for name, text in seen.most.items()}
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            name, told = chunk.path_in_schema, chunk.statistics
            if name in seen.least or name not in seen.nulls or told is None or not told.has_min_max:
                continue
            least[name] = min(least.get(name, told.min), told.min)
            most[name] = max(most.get(name, told.max), told.max)
    return {
        "numRecords": footer.num_rows,
        "minValues": {name: _as_json(bound) for name, bound in least.items()},
        "maxValues": {name: _as_json(bound) for name, bound in most.items()},
        "nullCount": seen.nulls,
    }


def _below(name: str, text: str) -> str:
    """A text that is not above this one, of at most `_LONGEST_STATISTIC` characters but for a URI."""
    return text if name == "uri" else text[:_LONGEST_STATISTIC]


def _above(name: str, text: str) -> str:
    """A text that is not below this one, of at most so many characters, where there is one."""
    if name == "uri" or len(text) <= _LONGEST_STATISTIC:
        return text
    for length in range(_LONGEST_STATISTIC, 0, -1):
        code = ord(text[length - 1]) + 1
        if code <= sys.maxunicode:
            return text[: length - 1] + chr(_AFTER_SURROGATES if 0xD800 <= code < _AFTER_SURROGATES else code)
    return text


def _as_json(bound: Any) -> Any:
    if isinstance(bound, datetime):
        return f"{bound.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
    if isinstance(bound, float) and not math.isfinite(bound):
        return math.copysign(sys.float_info.max, bound)  # JSON has no greater one
    return bound


def _now() -> int:
    return int(time.time() * 1000)
