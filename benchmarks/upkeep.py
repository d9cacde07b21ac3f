"""What very many commits cost, with and without upkeep.

    python -m benchmarks.upkeep --commits 5000

A catalog of so many small groups, each a commit of its own, with keys that come in order or at random; then the same
catalog after upkeep. Prints how many times longer each takes without upkeep, then the seconds: to open it, to plan all
of its objects, to publish one more group of new keys, to query it; and publishing beside a raw append of the same rows.
The groups are appended and not merged, which leaves the same files and is sooner done.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from benchmarks.planning import inventory_of, rows_of, spec_for
from blocks.catalog import Catalog
from blocks.catalog_upkeep import tend
from blocks.catalog_views import connect
from schemas.spec import EnrichmentSpec, Upkeep
from tasks.plan import plan

_TRIES = 5


def fill(catalog: Catalog, inventory: pl.DataFrame, spec: EnrichmentSpec, group: int) -> None:
    """One commit a group of objects."""
    from deltalake import write_deltalake

    catalog.publish(rows_of(inventory[:group], spec))
    table = catalog.table("enrichments")
    for part in inventory[group:].iter_slices(group):
        write_deltalake(table, rows_of(part, spec).to_arrow(), mode="append")


def measure(catalog: Catalog, inventory: pl.DataFrame, new: pl.DataFrame, spec: EnrichmentSpec) -> dict[str, float]:
    """Seconds, the median of some tries; `new`: objects to publish, a group a try."""
    from deltalake import write_deltalake

    groups = iter(list(new.iter_slices(new.height // _TRIES)))
    count = "SELECT enrichment, count(*), count(DISTINCT uri) FROM enrichments GROUP BY ALL"
    seconds = {
        "open": _median(lambda: catalog.table("enrichments")),
        "plan": _median(lambda: plan.fn(inventory, spec)),
        "query": _median(lambda: connect(catalog).execute(count).fetchall()),
        "publish": _median(lambda: catalog.publish(rows_of(next(groups), spec))),
    }
    others = iter(
        [
            rows_of(part, spec).with_columns(enrichment=pl.lit("appended"))
            for part in new.iter_slices(new.height // _TRIES)
        ]
    )

    def append() -> None:
        write_deltalake(catalog.table("enrichments"), next(others).to_arrow(), mode="append")

    return seconds | {"raw append": _median(append)}


def _median(do: Callable[[], object]) -> float:
    took = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        do()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def compare(commits: int, group: int, at_random: bool) -> None:
    """Fill, measure, look after, measure again; print."""
    count = (commits + 2 * _TRIES) * group
    listed = inventory_of(count)
    if at_random:
        listed = listed[random.Random(0).sample(range(count), count)]
    published, new = listed[: commits * group], listed[commits * group :]
    with tempfile.TemporaryDirectory() as name:
        spec = spec_for(Path(name), 1)
        catalog = Catalog(uri=spec.catalog)
        fill(catalog, published, spec, group)
        without = measure(catalog, published, new[: _TRIES * group], spec)
        began = time.perf_counter()
        done = tend(catalog, Upkeep())
        took = time.perf_counter() - began
        after = measure(catalog, published, new[_TRIES * group :], spec)
    print(f"{commits:,} commits of {group} rows, keys {'at random' if at_random else 'in order'}")
    for what in without:
        print(f"{what:12} {without[what] / after[what]:6.1f} x   {without[what]:8.3f} s -> {after[what]:8.3f} s")
    print(f"publish beside a raw append: {after['publish'] / after['raw append']:.1f} x")
    print(f"upkeep itself {took:.2f} s: {'; '.join(each.words for each in done)}\n")


def main() -> None:
    """Compare for keys in order and at random."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=5000)
    parser.add_argument("--group", type=int, default=10, help="rows of a commit")
    arguments = parser.parse_args()
    for at_random in (False, True):
        compare(arguments.commits, arguments.group, at_random)


if __name__ == "__main__":
    main()
