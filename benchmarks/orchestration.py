"""What orchestration costs at many light items, and whether memory grows with their number.

    python -m benchmarks.orchestration [--objects 10000] [--ways bare,prefect,dask] [--times 2]

The items are drawings of 32 x 32 pixels in an S3 store that answers 20 ms late; the model answers at once. `bare` runs
the same stages in three threads and commits in the same groups, without Prefect; `prefect` is the flow as `sightflow
run` runs it, with a server of its own; `dask` the same on one worker process. Each is a process of its own; the clock
runs from libraries imported, servers and workers started, to everything committed. Memory is the most that the process
held.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

os.environ.update(
    PREFECT_LOGGING_LEVEL="CRITICAL",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL",
)

import polars as pl

from benchmarks.parts.images import fill
from benchmarks.parts.slow_store import slow_store
from sightflow.blocks.models import registry as systems
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.spec import EnrichmentSpec

BUCKET = "light"


def take_its_place() -> None:
    """Let it stand where Florence-2 does."""
    systems.SYSTEMS["florence-2"] = "benchmarks.parts.device:Light"


def dask_setup(worker: Any) -> None:
    """What Dask calls in each worker that is told to preload this module."""
    take_its_place()


def bare(spec: EnrichmentSpec) -> int:
    """The stages as plain functions."""
    from sightflow.tasks.discover import discover
    from sightflow.tasks.fetch import fetch
    from sightflow.tasks.infer import infer
    from sightflow.tasks.open import open_catalog
    from sightflow.tasks.plan import plan
    from sightflow.tasks.runtime.shard_sizing import ShardSizer
    from sightflow.tasks.runtime.sharding import shards_of
    from sightflow.tasks.validate import Validated, validate

    class Fast(ShardSizer):
        def objects(self, system: str, kind: MediaKind) -> int:
            """Shards as large as they may be: that is best here."""
            return spec.policy.shard_size

    catalog, work = open_catalog(spec), plan.fn(discover.fn(spec), spec)

    def one(shard: Any) -> Validated:
        return validate.fn(shard, infer.fn(shard, fetch.fn(shard, spec), spec), "bare")

    published, group, due = 0, [], time.monotonic() + spec.policy.commit_seconds
    with ThreadPoolExecutor(spec.policy.shards_ahead) as pool:
        for future in as_completed([pool.submit(one, shard) for shard in shards_of(work, spec.policy, Fast())]):
            group.append(future.result().rows)
            if sum(rows.height for rows in group) >= spec.policy.commit_rows or time.monotonic() >= due:
                published += catalog.publish(pl.concat(group)).written
                group, due = [], time.monotonic() + spec.policy.commit_seconds
    if group:
        published += catalog.publish(pl.concat(group)).written
    return published


def flow(spec: EnrichmentSpec) -> int:
    from sightflow.flows.enrich import enrich

    return enrich(spec).published


def specified(endpoint: str, folder: str, runner: object = "threads") -> EnrichmentSpec:
    """One caption for each object."""
    return EnrichmentSpec.model_validate(
        {
            "source": f"s3://{BUCKET}/in/**",
            "catalog": f"file://{folder}/catalog",
            "store": {"endpoint_url": endpoint},
            "enrichments": [{"capability": "image captioning", "name": "caption"}],
            "runner": runner,
        }
    )


def measured(way: str, endpoint: str, folder: str) -> dict[str, float]:
    """Run one way in this process."""
    from sightflow.infra.prefect_server import prefect_api
    from sightflow.tasks.runtime.preload import preload

    take_its_place()
    spec = specified(endpoint, folder, {"kind": "dask", "settings": {"workers": 1}} if way == "dask" else "threads")
    preload(spec)
    if way == "bare":
        began = time.perf_counter()
        published = bare(spec)
        return {"published": published, "seconds": time.perf_counter() - began, "peak_bytes": _peak()}
    with prefect_api() as server:
        if server is not None:
            server.wait()
        import sightflow.flows.enrich  # noqa: F401
        from sightflow.tasks.runtime import task_runner

        waited = 0.0
        connect = task_runner._connect

        def timed(*arguments: Any) -> Any:
            nonlocal waited
            start = time.perf_counter()
            client = connect(*arguments)
            waited = time.perf_counter() - start
            return client

        task_runner._connect = timed
        began = time.perf_counter()
        published = flow(spec)
        return {"published": published, "seconds": time.perf_counter() - began - waited, "peak_bytes": _peak()}


def _peak() -> int:
    """The most memory this process has held, in bytes (VmHWM)."""
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def measure(way: str, endpoint: str) -> dict[str, float]:
    """Run one way in a process of its own, into an empty catalog."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.orchestration", "--child", way, endpoint, folder]
        preload = {"DASK_DISTRIBUTED__WORKER__PRELOAD": "benchmarks.orchestration", "OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(command, env=os.environ | preload, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def best(endpoint: str, ways: Sequence[str], times: int) -> dict[str, dict[str, float]]:
    """The quickest of each way's tries, which take turns."""
    found: dict[str, dict[str, float]] = {}
    for _ in range(times):
        for way in ways:
            done = measure(way, endpoint)
            assert done["published"] > 0, (way, done)
            if way not in found or done["seconds"] < found[way]["seconds"]:
                found[way] = done
    return found


def nothing_to_do(endpoint: str, folder: str) -> tuple[float, float]:
    """Seconds of listing the bucket, and of a run that finds everything done; each the quicker of two."""
    measured("prefect", endpoint, folder)
    again = min(measured("prefect", endpoint, folder)["seconds"] for _ in range(2))
    from sightflow.tasks.discover import discover

    listed = []
    for _ in range(2):
        began = time.perf_counter()
        discover.fn(specified(endpoint, folder))
        listed.append(time.perf_counter() - began)
    return min(listed), again


def main() -> None:
    """Measure and print; rounds are interleaved, and the quickest of each way counts."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--objects", type=int, default=10_000)
    asked.add_argument("--ways", default="bare,prefect,dask")
    asked.add_argument("--times", type=int, default=2)
    asked.add_argument("--child", nargs=3, metavar=("WAY", "ENDPOINT", "FOLDER"))
    given = asked.parse_args()
    if given.child:
        print(json.dumps(measured(*given.child)))
        return
    with slow_store() as (endpoint, _):
        fill(endpoint, BUCKET, given.objects, side=32, form="PNG")
        found = best(endpoint, given.ways.split(","), given.times)
    base, first = next(iter(found.items()))
    for way, done in found.items():
        seconds, ratio = done["seconds"], done["seconds"] / first["seconds"]
        rate, peak = given.objects / seconds, done["peak_bytes"] / 2**20
        print(f"{way}: {seconds:.1f} s, {rate:.0f} items/s, {ratio:.2f} of {base}, peak {peak:,.0f} MiB")


if __name__ == "__main__":
    main()
