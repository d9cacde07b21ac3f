"""What a commit of a run costs, by how large the catalog is already.

    python -m benchmarks.publishing --rows 50000 5000000

Groups of new objects at random keys, as uploads come, and of changed ones, at random or next to one another, are
committed into catalogs of so many rows, which upkeep has looked after. Each is the median of some. Beside new ones
stands a merge of them, as `Catalog.publish` does, which does not know that they are new; beside changed ones the plain
rewriting of the files that hold them, with pyarrow and without a commit, of the very same keys.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.planning import inventory_of, rows_of, spec_for
from sightflow.blocks.catalog.appender import key_frame
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.data_files import KEY
from sightflow.blocks.catalog.maintenance import maintain
from sightflow.blocks.catalog.run_writer import RunWriter
from sightflow.blocks.catalog.table_writes import append_next
from sightflow.schemas.policy import Upkeep
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.tables.quarantine import QUARANTINE_SCHEMA

_TRIES, _REWRITES = 5, 3
_AT_ONCE = 250_000
_NO_FAILURES = pl.DataFrame(schema=QUARANTINE_SCHEMA)


def filled(folder: Path, count: int, group: int) -> tuple[Catalog, EnrichmentSpec, pl.DataFrame, pl.DataFrame]:
    """A catalog of so many rows, its spec, its objects, and some at random keys that it does not hold."""
    spec = spec_for(folder, 1)
    catalog = Catalog(uri=spec.catalog)
    objects = inventory_of(count + 2 * _TRIES * group)
    chosen = objects.sample(2 * _TRIES * group, seed=1)
    objects = objects.join(chosen, on="uri", how="anti", maintain_order="left")
    for part in objects.iter_slices(_AT_ONCE):
        append_next(catalog.open_or_create("enrichments"), rows_of(part, spec).sort("uri"))
    maintain(catalog, Upkeep(), even_if_not_due=True)
    return catalog, spec, objects, chosen


def measure(count: int, group: int) -> dict[str, float]:
    """Seconds for a commit of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        catalog, spec, objects, chosen = filled(Path(folder), count, group)
        writer = RunWriter(catalog, catalog.version())
        groups = iter([rows_of(part, spec) for part in chosen.iter_slices(group)])

        def commit(rows: pl.DataFrame, known: pl.DataFrame) -> object:
            return writer.commit(rows, _NO_FAILURES, known)

        seconds = {
            "new": _median(lambda rows: commit(rows, key_frame()), [next(groups) for _ in range(_TRIES)]),
            "new, merged": _median(catalog.publish, [next(groups) for _ in range(_TRIES)]),
        }
        for kind, some in {
            "changed": [objects.sample(group, seed=seed) for seed in range(_REWRITES)],
            "changed, next to one another": [objects[k * group : (k + 1) * group] for k in range(_REWRITES)],
        }.items():
            changed = [
                rows_of(part, spec).with_columns(fingerprint=pl.lit(f"{kind} {k}")) for k, part in enumerate(some)
            ]
            by_hand, ours = list[float](), list[float]()
            for rows in changed:  # in turn, since what else the machine does changes meanwhile
                by_hand.append(_took(lambda rows: rewrite(catalog, rows, Path(folder)), rows))
                ours.append(_took(lambda rows: commit(rows, rows.select(KEY)), rows))
            seconds[f"{kind}, by hand"], seconds[kind] = statistics.median(by_hand), statistics.median(ours)
        return seconds


def rewrite(catalog: Catalog, rows: pl.DataFrame, folder: Path) -> None:
    """Write the files that hold these rows anew, as plainly as that can be done."""
    uris = pa.array(rows["uri"].to_list(), pa.string())
    new = rows.to_arrow()
    for number, (path, first, last) in enumerate(_reach(catalog)):
        of_file = rows.filter(pl.col("uri").is_between(pl.lit(first), pl.lit(last)))
        if of_file.is_empty():
            continue
        with pq.ParquetFile(f"{catalog.table_uri('enrichments').removeprefix('file://')}/{path}") as file:
            schema = file.schema_arrow
            with pq.ParquetWriter(folder / f"{number}.parquet", schema, compression="zstd") as writer:
                for batch in file.iter_batches(65_536):
                    writer.write_batch(batch.filter(pc.invert(pc.is_in(batch["uri"], uris))))
                writer.write_table(new.slice(0, of_file.height).select(schema.names).cast(schema))


def _reach(catalog: Catalog) -> list[tuple[str, str, str]]:
    entries = pl.DataFrame(catalog.table("enrichments").get_add_actions(flatten=True))
    return list(entries.select("path", "min.uri", "max.uri").iter_rows())


def _median(commit: Callable[[pl.DataFrame], object], groups: list[pl.DataFrame]) -> float:
    return statistics.median(_took(commit, rows) for rows in groups)


def _took(commit: Callable[[pl.DataFrame], object], rows: pl.DataFrame) -> float:
    """Seconds, beginning with nothing that waits to be written: what is plainly written is left to the system."""
    os.sync()
    began = time.perf_counter()
    commit(rows)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 5_000_000])
    parser.add_argument("--group", type=int, default=1000)
    given = parser.parse_args()
    first: dict[str, float] = {}
    for count in given.rows:
        seconds = measure(count, given.group)
        first = first or seconds
        told = "  ".join(f"{kind} {value:.3f} s ({value / first[kind]:.2f})" for kind, value in seconds.items())
        print(f"{count:>12,} rows: {told}", flush=True)
        for kind in ("changed", "changed, next to one another"):
            print(f"{kind}, over by hand: {seconds[kind] / seconds[f'{kind}, by hand']:.2f}", flush=True)


if __name__ == "__main__":
    main()
