"""Which files of a table upkeep joins, and how: in the order of their keys, so that few files may hold any one key.

Small files become one another's neighbours in a sorted file. Such files of several times reach over each other; where
more than some do, the widest of them are sorted into one row of files. Each file is so written anew a number of times
that grows with the logarithm of the table, as in a log-structured merge tree, and a key is looked for in few files.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from sightflow.blocks.catalog.data_files import FILE_BYTES, DataFile, DataFiles
from sightflow.blocks.catalog.rewrite import ROWS_WRITTEN, Rewrite
from sightflow.schemas.failure import StoreError

SMALL_BYTES = FILE_BYTES // 4
_MOST_OVER_A_KEY = 8
_GROUP_BYTES = 16 * FILE_BYTES
_KEYS_SAMPLED = 32  # one in so many tells where to cut
Group = Sequence[DataFile]


def small_files(files: Sequence[DataFile]) -> list[Group]:
    """The small files of each partition."""
    return _by_partition([file for file in files if file.size < SMALL_BYTES])


def groups_to_join(files: Sequence[DataFile]) -> list[Group]:
    """Files that are to be joined, a list for each commit: the small ones first, then those that reach over others."""
    groups: list[Group] = []
    for partition in small_files(files):
        groups += [group for group in _of_bounded_size(partition) if len(group) > 1]
    joined = {file.path for group in groups for file in group}
    for partition in _by_partition([file for file in files if file.path not in joined]):
        groups += _overlapping(partition)
    return groups


def joined(files: DataFiles, group: Group, order: Sequence[str]) -> Rewrite:
    """The rows of a group in files of the usual size, sorted by the texts of `order`; at most one is held in memory."""
    partition, added, count = group[0].partition, list[Any](), 0
    for first, before in _ranges(files, group, order[0]):
        rows = files.between(group, order[0], first, before).collect(engine="streaming").sort(order)
        batches = map(files.arrow, rows.iter_slices(ROWS_WRITTEN))
        added += files.write(batches, partition, data_change=False, most_bytes=FILE_BYTES * 3 // 2)
        count += rows.height
    held = sum(file.rows or 0 for file in group)
    if count != held and all(file.rows is not None for file in group):
        raise StoreError(
            f"{len(group)} files that hold {held:,} rows by the log gave {count:,}; they are left as they are"
        )
    return Rewrite(files.version, group, added, counts={"joined": len(group)}, data_change=False)


def _ranges(files: DataFiles, group: Group, column: str) -> Iterator[tuple[str, str | None]]:
    """Ranges of a column, each of about as many rows as a file has."""
    parts = math.ceil(sum(file.size for file in group) / FILE_BYTES)
    cuts: list[str] = []
    if parts > 1:
        values = files.between(group, column, "", None).select(pl.col(column).gather_every(_KEYS_SAMPLED))
        sample = values.collect(engine="streaming")[column].sort()
        cuts = sample.gather([len(sample) * part // parts for part in range(1, parts)]).unique().sort().to_list()
    starts = ["", *(cut for cut in cuts if cut)]
    yield from zip(starts, [*starts[1:], None], strict=True)


def _by_partition(files: Sequence[DataFile]) -> list[Group]:
    partitions: dict[tuple[str | None, ...], list[DataFile]] = defaultdict(list)
    for file in files:
        partitions[tuple(file.partition.values())].append(file)
    return list(partitions.values())


def _of_bounded_size(files: Group) -> Iterator[Group]:
    """Neighbours in the key together."""
    group: list[DataFile] = []
    for file in sorted(files, key=lambda file: (file.first or "", file.path)):
        if group and sum(each.size for each in group) + file.size > _GROUP_BYTES:
            yield group
            group = []
        group.append(file)
    if group:
        yield group


def _overlapping(files: Group) -> Iterator[Group]:
    """Groups of files that hold a key in common, where there are too many of them: the widest, which are the latest."""
    bounded = sorted((file for file in files if file.first is not None), key=lambda file: file.first or "")
    starts = [file.first or "" for file in bounded]

    def width(file: DataFile) -> int:
        return bisect_right(starts, file.last or "") - bisect_left(starts, file.first or "")

    over: list[DataFile] = []
    for file in bounded:
        over = [each for each in over if (each.last or "") >= (file.first or "")] + [file]
        if len(over) > _MOST_OVER_A_KEY:
            widest = sorted(over, key=width, reverse=True)[:_MOST_OVER_A_KEY]
            yield widest
            over = [each for each in over if each not in widest]
