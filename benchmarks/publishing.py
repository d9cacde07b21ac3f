"""What a commit of a run costs, by how large the catalog is already.

    python -m benchmarks.publishing --rows 50000 5000000

Groups of new objects at random keys, as uploads come, and of changed ones, are committed into catalogs of so many rows,
which upkeep has looked after. Each is the median of some. Beside them a merge of new ones, as `Catalog.publish` does,
which does not know that they are new.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from benchmarks.planning import inventory_of, rows_of, spec_for
from sightflow.blocks.catalog.appender import key_frame
from sightflow.blocks.catalog.catalog import KEY, Catalog
from sightflow.blocks.catalog.maintenance import maintain
from sightflow.blocks.catalog.run_writer import RunWriter
from sightflow.blocks.catalog.table_writes import append_next
from sightflow.schemas.spec import EnrichmentSpec, Upkeep
from sightflow.schemas.tables.quarantine import QUARANTINE_SCHEMA

_TRIES = 5
_AT_ONCE = 250_000
_NO_FAILURES = pl.DataFrame(schema=QUARANTINE_SCHEMA)


def filled(folder: Path, count: int, group: int) -> tuple[Catalog, EnrichmentSpec, pl.DataFrame]:
    """A catalog of so many rows, its spec, and objects at random keys that it does not hold."""
    spec = spec_for(folder, 1)
    catalog = Catalog(uri=spec.catalog)
    objects = inventory_of(count + 2 * _TRIES * group)
    chosen = objects.sample(2 * _TRIES * group, seed=1)
    for part in objects.join(chosen, on="uri", how="anti").iter_slices(_AT_ONCE):
        append_next(catalog.open_or_create("enrichments"), rows_of(part, spec).sort("uri"))
    maintain(catalog, Upkeep(), even_if_not_due=True)
    return catalog, spec, chosen


def measure(count: int, group: int) -> dict[str, float]:
    """Seconds for a commit of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        catalog, spec, chosen = filled(Path(folder), count, group)
        writer = RunWriter(catalog, catalog.version())
        groups = iter([rows_of(part, spec) for part in chosen.iter_slices(group)])
        appended = [next(groups) for _ in range(_TRIES)]
        seconds = {
            "new": _median(lambda rows: writer.commit(rows, _NO_FAILURES, key_frame()), appended),
            "new, merged": _median(catalog.publish, [next(groups) for _ in range(_TRIES)]),
        }
        changed = [rows.with_columns(fingerprint=pl.col("fingerprint") + "changed") for rows in appended]
        seconds["changed"] = _median(lambda rows: writer.commit(rows, _NO_FAILURES, rows.select(KEY)), changed)
        return seconds


def _median(commit: Callable[[pl.DataFrame], object], groups: list[pl.DataFrame]) -> float:
    took = []
    for rows in groups:
        began = time.perf_counter()
        commit(rows)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


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


if __name__ == "__main__":
    main()
