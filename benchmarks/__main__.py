"""All that is measured on a machine without a GPU, as one table, ratios first: `make bench`.

    python -m benchmarks [--objects 2000] [--light 10000] [--times 2] [--only rivals,sharing,...]

The store is an S3 endpoint on loopback, in a process of its own, that answers each request 20 ms late.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks import orchestration
from benchmarks.parts.images import fill
from benchmarks.parts.slow_store import slow_store
from benchmarks.planning import inventory_of, rows_of, spec_for
from benchmarks.rivals import runner
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.infra.demo.bucket import MODEL_FOLDER

BUCKET = "bench"
LIBRARIES = ("sightflow", "prefect", "distributed", "torch", "transformers", "polars", "deltalake", "s3fs", "moto")
Row = tuple[str, float, str, str]
"""What is measured, its ratio, what it should be, and the figures behind it."""


@dataclass(frozen=True)
class Size:
    """How much is measured: pictures of a rival's run, light items of Prefect's, and tries of which the best counts."""

    objects: int
    light: int
    times: int


def rivals(size: Size) -> Iterator[Row]:
    """From bucket to catalog, over the model alone, loops, and what people would pick instead; the best try counts."""
    with slow_store() as (endpoint, store), tempfile.TemporaryDirectory() as place:
        fill(endpoint, BUCKET, size.objects)
        for model in ("device", "demo"):
            best: dict[str, runner.Outcome | str] = {}
            busy: dict[str, float] = {}
            for turn in range(size.times):
                for name in runner.MODULES:
                    before = _cpu(store)
                    out = Path(place, model, f"{name}-{turn}")
                    done = runner.measure(name, endpoint, BUCKET, "in/", model, MODEL_FOLDER, out)
                    kept = runner.better(best.get(name), done)
                    if kept is done:
                        busy[name] = _cpu(store) - before
                    best[name] = kept
            print(
                f"\n{model}: {size.objects:,} JPEGs of 640 x 640, best of {size.times}\n{runner.table(best)}\n",
                flush=True,
            )
            yield from _over_the_rest(model, best, busy)


def _over_the_rest(model: str, best: dict[str, runner.Outcome | str], busy: dict[str, float]) -> Iterator[Row]:
    ours = best.pop("sightflow")
    assert isinstance(ours, runner.Outcome), ours
    target = {
        "in memory": ">= 0.95" if model == "device" else ">= 0.85",
        "naive": ">= 1.5",
        "careful": ">= 1.0",
    }
    for name, other in best.items():
        if isinstance(other, str):
            continue
        figures = f"{ours.rows / ours.seconds:.1f} and {other.rows / other.seconds:.1f} objects/s"
        what = f"{model}: Sightflow over {name}"
        yield what, other.seconds / ours.seconds, target.get(name, "> 1"), figures
        if name == "in memory":
            apart = ours.seconds - busy["sightflow"] / (os.cpu_count() or 1)
            figures = f"the store used {busy['sightflow']:.1f} of the {ours.seconds:.1f} s on one core"
            yield f"{what}, the store's CPU set apart", other.seconds / apart, target[name], figures
    first = f"{ours.first_row_seconds:.1f} of {ours.seconds:.1f} s"
    yield f"{model}: seconds to the first caption", ours.first_row_seconds / ours.seconds, "", first


def length(size: Size) -> Iterator[Row]:
    """The stand-in and five times the pictures, beside the careful loop: what begins and ends a run counts less."""
    objects = 5 * size.objects
    with slow_store() as (endpoint, _), tempfile.TemporaryDirectory() as place:
        keys = set(fill(endpoint, BUCKET, objects))
        best: dict[str, runner.Outcome | str] = {}
        for turn in range(size.times):
            for name in ("careful", "sightflow"):
                out = Path(place, f"{name}-{turn}")
                done = runner.measure(name, endpoint, BUCKET, "in/", "device", MODEL_FOLDER, out)
                assert isinstance(done, runner.Outcome) and set(done.captions) == keys, done
                best[name] = runner.better(best.get(name), done)
    ours, other = best["sightflow"], best["careful"]
    assert isinstance(ours, runner.Outcome) and isinstance(other, runner.Outcome), best
    figures = f"{ours.seconds:.1f} and {other.seconds:.1f} s for {objects:,} objects"
    yield "device: Sightflow over careful, at length", other.seconds / ours.seconds, ">= 1.0", figures


def shared(size: Size) -> Iterator[Row]:
    """Several prompts about one picture over one."""
    from benchmarks import sharing  # with torch, whose pages a contender would share with this process

    yield from sharing.rows(repetitions=9)


def orchestrated(size: Size) -> Iterator[Row]:
    """The flow over the same stages without Prefect, at many light items."""
    with slow_store() as (endpoint, _):
        fill(endpoint, orchestration.BUCKET, size.light, side=32, form="PNG")
        done = orchestration.best(endpoint, ("bare", "prefect", "dask"), size.times)
    bare = done["bare"]["seconds"]
    for way, target in (("prefect", "<= 1.10"), ("dask", "")):
        figures = f"{done[way]['seconds']:.1f} and {bare:.1f} s for {size.light:,} items"
        yield f"orchestration: {way} over bare", done[way]["seconds"] / bare, target, figures


def memory(size: Size) -> Iterator[Row]:
    """The peak of a run with the demo's model beside the careful loop's, and of one of four times as many objects."""
    with slow_store() as (endpoint, _), tempfile.TemporaryDirectory() as place:
        fill(endpoint, BUCKET, size.objects)
        done = {
            name: runner.measure(name, endpoint, BUCKET, "in/", "demo", MODEL_FOLDER, Path(place, name))
            for name in ("careful", "sightflow")
        }
    loop, ours = done["careful"], done["sightflow"]
    assert isinstance(loop, runner.Outcome) and isinstance(ours, runner.Outcome), done
    theirs, own = loop.peak_memory_bytes / 2**20, ours.own_peak_memory_bytes / 2**20
    whole = ours.peak_memory_bytes / 2**20
    figures = f"{own:,.0f} and {theirs:,.0f} MiB for {size.objects:,} objects"
    yield "demo: peak memory of the run over the careful loop", own / theirs, "<= 1.3", figures
    figures = f"{whole:,.0f} and {theirs:,.0f} MiB"
    yield "demo: the same, its Prefect server's process counted", whole / theirs, "", figures
    peaks = []
    for count in (size.light // 2, 2 * size.light):
        with slow_store(latency=0) as (endpoint, _):
            fill(endpoint, orchestration.BUCKET, count, side=32, form="PNG")
            peaks.append(orchestration.measure("prefect", endpoint)["peak_bytes"])
    few, many = (peak / 2**20 for peak in peaks)
    figures = f"{few:,.0f} MiB at {size.light // 2:,} objects, {many:,.0f} at {2 * size.light:,}"
    yield "peak memory: four times the objects over one", many / few, "about 1", figures


def workers(size: Size) -> Iterator[Row]:
    """Two Dask workers, each with a device of its own, over one."""
    seconds = []
    with slow_store() as (endpoint, _), tempfile.TemporaryDirectory() as place:
        fill(endpoint, BUCKET, size.objects)
        for count in (1, 2):
            os.environ["SIGHTFLOW_WORKERS"] = str(count)
            out = Path(place, str(count))
            done = runner.measure("sightflow", endpoint, BUCKET, "in/", "device", MODEL_FOLDER, out)
            del os.environ["SIGHTFLOW_WORKERS"]
            assert isinstance(done, runner.Outcome), done
            seconds.append(done.seconds - done.first_row_seconds)  # starting workers takes as long for one as for two
    figures = f"{seconds[0]:.1f} and {seconds[1]:.1f} s for {size.objects:,} objects after the first caption"
    yield "two Dask workers over one", seconds[0] / seconds[1], "", figures


def nothing(size: Size) -> Iterator[Row]:
    """A run that finds everything done, over listing alone."""
    with slow_store() as (endpoint, _), tempfile.TemporaryDirectory() as folder:
        fill(endpoint, orchestration.BUCKET, size.light, side=32, form="PNG")
        listed, again = orchestration.nothing_to_do(endpoint, folder)
    figures = f"{again:.2f} and {listed:.2f} s for {size.light:,} objects"
    yield "a run with nothing to do over listing", again / listed, "", figures


def published(size: Size) -> Iterator[Row]:
    """Groups of rows merged into a catalog by key, over the same rows appended to a Delta table as they come."""
    from deltalake import write_deltalake

    groups, a_group, took = 20, 1000, [0.0, 0.0]
    with tempfile.TemporaryDirectory() as place:
        spec = spec_for(Path(place), 1)
        parts = [rows_of(part, spec) for part in inventory_of((groups + 1) * a_group).iter_slices(a_group)]
        merged, appended = (Catalog(uri=f"file://{place}/{name}") for name in ("merged", "appended"))
        for catalog in (merged, appended):
            catalog.publish(parts[0])
        for part in parts[1:]:
            began = time.perf_counter()
            merged.publish(part)
            between = time.perf_counter()
            write_deltalake(appended.table("enrichments"), part.to_arrow(), mode="append")
            took = [took[0] + between - began, took[1] + time.perf_counter() - between]
    figures = f"{took[0] / groups * 1000:.0f} and {took[1] / groups * 1000:.0f} ms for a group of {a_group:,} rows"
    yield "publishing over a raw Delta append", took[0] / took[1], "", figures


SECTIONS: dict[str, Callable[[Size], Iterator[Row]]] = {
    "rivals": rivals,
    "length": length,
    "sharing": shared,
    "orchestration": orchestrated,
    "workers": workers,
    "nothing": nothing,
    "memory": memory,
    "publishing": published,
}


def _cpu(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def line(row: Row) -> str:
    """A row of the table in Markdown, the ratio first."""
    what, ratio, target, figures = row
    return f"| {ratio:.2f} | {target} | {what} | {figures} |"


def table(rows: Sequence[Row]) -> str:
    """The ratios in Markdown."""
    return "\n".join(["| ratio | should be | what | figures |", "| --: | --- | --- | --- |", *map(line, rows)])


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--objects", type=int, default=2000)
    asked.add_argument("--light", type=int, default=10_000)
    asked.add_argument("--times", type=int, default=2, help="tries of each, of which the best counts")
    asked.add_argument("--only", default=",".join(SECTIONS))
    given = asked.parse_args()
    rows: list[Row] = []
    for name in given.only.split(","):
        print(f"{time.strftime('%H:%M:%S')} measuring {name}", flush=True)
        for row in SECTIONS[name](Size(given.objects, given.light, given.times)):
            print(line(row), flush=True)
            rows.append(row)
    memory_gib = psutil.virtual_memory().total / 2**30
    print(f"\n{os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()}, Python {platform.python_version()}")
    print(", ".join(f"{library} {version(library)}" for library in LIBRARIES) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
