"""Rows sorted by object, however many: put into files by ranges of their URIs, and each file sorted by itself.

DuckDB's own sort holds too much of wide rows in memory to be given a bound: with a fifth of what they take it fails.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl

_ROWS_A_RANGE = 10_000  # with masks some kilobytes each; one range is in memory at a time
_MOST_RANGES = 256  # each a file that is open
SAMPLED_URIS = 100 * _MOST_RANGES
"""How many URIs, drawn at random, tell well enough where to cut."""


def ranges_of(sample: Sequence[str], count: int) -> list[str]:
    """Where to cut so many rows: the first URI of each range but the first, by some of their URIs drawn at random."""
    ranges = min(-(-count // _ROWS_A_RANGE), _MOST_RANGES)
    ordered = sorted(sample)
    return sorted({ordered[len(ordered) * number // ranges] for number in range(1, ranges)})


def sorted_rows(batches: Iterator[pl.DataFrame], cuts: Sequence[str], folder: Path) -> Iterator[pl.DataFrame]:
    """The rows of all batches in the order of `uri` and `enrichment`, a range at a time. `folder`: for what waits."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.arrows" for number in range(len(cuts) + 1)]
    _distribute(batches, cuts, paths)
    for path in paths:
        if path.exists():
            yield pl.read_ipc_stream(path).sort("uri", "enrichment")
            path.unlink()


def _distribute(batches: Iterator[pl.DataFrame], cuts: Sequence[str], paths: Sequence[Path]) -> None:
    import pyarrow as pa

    writers: dict[int, Any] = {}
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with ExitStack() as stack:
        for batch in batches:
            numbers = pl.Series("range", [bisect_right(cuts, uri) for uri in batch["uri"]], pl.Int64())
            for (number,), part in batch.with_columns(numbers).partition_by("range", as_dict=True).items():
                table = part.drop("range").to_arrow()
                if number not in writers:
                    file = stack.enter_context(paths[number].open("wb"))
                    writers[number] = stack.enter_context(pa.ipc.new_stream(file, table.schema, options=options))
                writers[number].write_table(table)
