"""What very many commits cost, with and without upkeep.

    python -m benchmarks.upkeep --commits 5000 --without 1000

First, publishing so many small groups, at random keys, with upkeep whenever it is due: how long a group takes at the
end beside the beginning, and how long it then takes to open, plan, query and publish. Then a catalog of fewer groups
without upkeep, with keys in order or at random, and the same catalog after upkeep: how many times longer each takes
without. Those groups are appended and not merged, which leaves the same files; even so, every commit takes longer than
the one before it, which is why they are fewer.
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
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.maintenance import maintain
from sightflow.blocks.catalog.sql_views import connect
from sightflow.schemas.policy import Upkeep
from sightflow.schemas.run.discovered import Discovered
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.plan import plan

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
        "plan": _median(lambda: plan.fn(Discovered(inventory), spec)),
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


def _listed(count: int, at_random: bool) -> pl.DataFrame:
    inventory = inventory_of(count)
    return inventory[random.Random(0).sample(range(count), count)] if at_random else inventory


def keep_publishing(commits: int, group: int) -> None:
    """Publish with upkeep as runs do it; print how the time of a group goes on."""
    listed = _listed((commits + _TRIES) * group, at_random=True)
    took, looked_after = [], 0.0
    with tempfile.TemporaryDirectory() as name:
        spec = spec_for(Path(name), 1)
        catalog = Catalog(uri=spec.catalog)
        for part in listed[: commits * group].iter_slices(group):
            rows = rows_of(part, spec)
            began = time.perf_counter()
            catalog.publish(rows)
            published = time.perf_counter()
            maintain(catalog, Upkeep())
            took.append(published - began)
            looked_after += time.perf_counter() - published
        after = measure(catalog, listed[: commits * group], listed[commits * group :], spec)
    tenth = commits // 10
    medians = [statistics.median(took[k * tenth : (k + 1) * tenth]) for k in range(10)]
    print(f"{commits:,} commits of {group} rows, keys at random, with upkeep when due")
    print(f"the last tenth beside the first: {medians[-1] / medians[0]:.2f} x")
    print("seconds a group, by tenths:", " ".join(f"{median:.3f}" for median in medians))
    print(f"upkeep of all the time: {looked_after / (sum(took) + looked_after):.0%}")
    print("then:", ", ".join(f"{what} {seconds:.3f} s" for what, seconds in after.items()), "\n", flush=True)


def compare(commits: int, group: int, at_random: bool) -> None:
    """Fill, measure, look after, measure again; print."""
    listed = _listed((commits + 2 * _TRIES) * group, at_random)
    published, new = listed[: commits * group], listed[commits * group :]
    with tempfile.TemporaryDirectory() as name:
        spec = spec_for(Path(name), 1)
        catalog = Catalog(uri=spec.catalog)
        fill(catalog, published, spec, group)
        without = measure(catalog, published, new[: _TRIES * group], spec)
        began = time.perf_counter()
        done = maintain(catalog, Upkeep())
        took = time.perf_counter() - began
        after = measure(catalog, published, new[_TRIES * group :], spec)
    print(f"{commits:,} commits of {group} rows, keys {'at random' if at_random else 'in order'}")
    for what in without:
        print(f"{what:12} {without[what] / after[what]:6.1f} x   {without[what]:8.3f} s -> {after[what]:8.3f} s")
    print(f"publish beside a raw append: {after['publish'] / after['raw append']:.1f} x")
    print(f"upkeep itself {took:.2f} s: {'; '.join(each.summary for each in done)}\n", flush=True)


def main() -> None:
    """Publish with upkeep; then compare, for keys in order and at random."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=5000)
    parser.add_argument("--without", type=int, default=1000, help="commits of the catalogs without upkeep")
    parser.add_argument("--group", type=int, default=10, help="rows of a commit")
    arguments = parser.parse_args()
    keep_publishing(arguments.commits, arguments.group)
    for at_random in (False, True):
        compare(arguments.without, arguments.group, at_random)


if __name__ == "__main__":
    main()
