"""Rows take the place of others by writing the files anew that hold these, as one commit.

The files are written once. If another writer commits first, what it has changed is looked through, and the same files
are committed after it unless it has changed the same: two runs in one catalog do not write large files for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from sightflow.blocks.catalog.commit_log import COUNT_PREFIX, Commit, Untold, read_commit
from sightflow.blocks.catalog.data_files import FILE_BYTES, KEY, DataFile, DataFiles

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_WRITTEN = 4096  # a batch of plain strings holds 2 GiB a column
_SPLICED = 64  # rows of a batch; for more it is quicker to take each row of the batch than to put slices together
_FILES_AT_ONCE = 2  # each in memory, with a row group of it: one is read or sent while the other is written


@dataclass
class Rewrite:
    """Files that are written and not yet committed. `keys`: those that are not to come from another writer meanwhile.

    `version`: the one that it is committed as, None before. `seen`: up to which version others are known.
    """

    seen: int
    removed: Sequence[DataFile] = ()
    added: Sequence[Any] = ()
    keys: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=dict.fromkeys(KEY, pl.String())))
    counts: Mapping[str, int] = field(default_factory=dict)
    data_change: bool = True
    version: int | None = None

    def commit(self, files: DataFiles) -> None:
        """Commit as the very next version of what has been looked through, if there is anything to commit.

        Raises CommitFailedError if another writer has taken that version.
        """
        if self.version is None and (self.added or self.removed):
            noted = {f"{COUNT_PREFIX}{kind}": str(count) for kind, count in self.counts.items()}
            self.version = files.commit(self.added, self.removed, self.data_change, noted)

    def still_stands(self, files: DataFiles) -> bool:
        """Whether nothing that was committed since has changed what is replaced here, or added a key that is.

        A commit whose answer was lost is found, and is the one. Where it cannot be told it is no; what has been written
        for it is then left to the vacuum, since it may have been committed.
        """
        try:
            for version in range(self.seen + 1, files.version + 1):
                commit = read_commit(files, version)
                if self._is_own(commit):
                    self.version = version
                    return True
                if self._concerns(commit, files):
                    files.remove(add.path for add in self.added)
                    return False
                self.seen = version
        except Untold:
            return False
        return True

    def _is_own(self, commit: Commit) -> bool:
        if self.added:
            return self.added[0].path in commit.added
        return False  # rows are gone: found gone, there is nothing left to do

    def _concerns(self, commit: Commit, files: DataFiles) -> bool:
        if commit.other or not commit.removed.isdisjoint(file.path for file in self.removed):
            return True
        return not self.keys.is_empty() and any(
            not self.keys.join(keys, on=KEY, how="semi").is_empty() for keys in commit.new_keys(files)
        )


def replace(
    files: DataFiles,
    found: pl.DataFrame,
    held: Mapping[str, DataFile],
    rows: pl.DataFrame,
    counts: Mapping[str, int],
) -> Rewrite:
    """Write anew the files that hold the rows `found` (`path` and key), with `rows` in their place.

    `held`: the files by path. A row stays at the place of the one that it replaces, unless that is in another
    partition; what replaces none goes into files of its own. With no `rows` those that are found are removed.
    """
    from concurrent.futures import ThreadPoolExecutor

    first = found.unique(KEY, keep="first", maintain_order=True)
    numbered = rows.with_row_index("replacement")
    placed, anew = set[int](), []
    for path, of_path in found.group_by("path", maintain_order=True):
        file = held[str(path[0])]
        same = [pl.col(column).eq_missing(pl.lit(value, pl.String())) for column, value in file.partition.items()]
        here = numbered.filter(*same).join(first.filter(pl.col("path") == file.path), on=KEY, how="semi")
        placed.update(here["replacement"])
        gone = of_path.select(KEY).unique().join(here.select(*KEY, "replacement"), on=KEY, how="left")
        anew.append((file, gone, here))

    def write(one: tuple[DataFile, pl.DataFrame, pl.DataFrame]) -> list[Any]:
        return files.write(_with_replaced(files, *one), one[0].partition, most_bytes=FILE_BYTES * 3 // 2)

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        added = [action for of_file in pool.map(write, anew) for action in of_file]
    more = numbered.filter(~pl.col("replacement").is_in(list(placed))).drop("replacement").sort(KEY)
    for values, part in _by_partition(more, files.partition_columns):
        added += files.write(map(files.arrow, part.iter_slices(ROWS_WRITTEN)), values)
    removed = [held[str(path)] for path in found["path"].unique()]
    return Rewrite(files.version, removed, added, rows.select(KEY), counts)


def _with_replaced(
    files: DataFiles, file: DataFile, gone: pl.DataFrame, replacements: pl.DataFrame
) -> Iterator[pa.RecordBatch]:
    """The rows of a file without those that are `gone`, and in the place of some their `replacement`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    place = {number: new_row for new_row, number in enumerate(replacements["replacement"])}
    new, uris = files.arrow(replacements), gone["uri"].unique().to_list()
    for batch in files.rows(file):
        near = pc.indices_nonzero(pc.is_in(batch["uri"], pa.array(uris, batch["uri"].type)))
        keys = pl.DataFrame(batch.select(KEY).take(near)).cast(pl.String()).with_columns(row=pl.Series(near))
        hits = keys.join(gone, on=KEY).select("row", "replacement").sort("row")
        if hits.is_empty():
            yield batch
        else:
            rows = [(row, place.pop(number, None)) for row, number in hits.iter_rows()]
            yield from _spliced(batch, new.cast(batch.schema), rows).combine_chunks().to_batches()


def _spliced(batch: pa.RecordBatch, new: pa.RecordBatch, replaced: Sequence[tuple[int, int | None]]) -> pa.Table:
    """A batch with rows of `new` in the place of some of its own, and without those that have none."""
    import numpy as np
    import pyarrow as pa

    if len(replaced) <= _SPLICED:
        parts, start = list[pa.RecordBatch](), 0
        for row, new_row in replaced:
            parts.append(batch.slice(start, row - start))
            if new_row is not None:
                parts.append(new.slice(new_row, 1))
            start = row + 1
        return pa.Table.from_batches([*parts, batch.slice(start)])
    order = np.arange(batch.num_rows)
    taken = [new_row for _, new_row in replaced if new_row is not None]
    order[[row for row, new_row in replaced if new_row is not None]] = batch.num_rows + np.arange(len(taken))
    order = np.delete(order, [row for row, new_row in replaced if new_row is None])
    # Put together first: out of two parts, lists are taken row by row.
    both = pa.Table.from_batches([batch, new.take(pa.array(taken, pa.int64()))]).combine_chunks()
    return both.take(pa.array(order))


def _by_partition(rows: pl.DataFrame, columns: Sequence[str]) -> Iterator[tuple[dict[str, str | None], pl.DataFrame]]:
    if rows.is_empty():
        return
    if not columns:
        yield {}, rows
        return
    for values, part in rows.group_by(columns, maintain_order=True):
        yield dict(zip(columns, map(str, values), strict=True)), part
