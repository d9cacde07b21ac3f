"""How long a command takes before its work begins, as ratios to what it cannot do without.

    python -m benchmarks.start [--objects 10000] [--times 5] [--only nothing,bucket,first,query]

Each is a process of its own, from its start to its end, and takes turns with the one that it is compared with; the
quickest of each counts. Prefect is configured with nothing and its folders begin empty. `nothing` and `bucket`: a run
that finds everything done, of files and of an S3 store on loopback, over importing the libraries of tables. `first`: a
run of one picture with the demo's model, over a Prefect flow that does nothing on a server of its own. `query`: one
line of a catalog, over importing the libraries that it needs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from benchmarks.parts.images import fill
from benchmarks.parts.slow_store import slow_store
from benchmarks.planning import rows_of
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.infra.demo.scenes import draw_scene
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.discover import discover

Command = Sequence[str]

SIGHTFLOW = (sys.executable, "-c", "from sightflow.infra.cli import main; main()")
TABLES = (sys.executable, "-c", "import polars, deltalake, duckdb")
QUERIED = (sys.executable, "-c", "import polars, deltalake, duckdb, pyarrow.dataset")
BARE_FLOW = (sys.executable, "-c", "from prefect import flow\n@flow\ndef nothing() -> None: pass\nnothing()")
TARGETS = {"nothing": 2.5, "bucket": 2.5, "first": 1.2, "query": 2.0}


class Place:
    """A folder with specs and catalogs, and the environment of what runs there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHON"))}
        self.environment = {
            **kept,
            # As where it is installed: compiled once, wherever the compiled files may lie.
            "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir(), "sightflow-benchmark-bytecode")),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "CRITICAL",
            "DO_NOT_TRACK": "1",
        }

    def spec(self, name: str, source: str, **sections: object) -> Path:
        """A spec of detections with the demo's model."""
        path = self.folder / f"{name}.yaml"
        asked = {
            "source": source,
            "catalog": str(self.folder / name),
            "enrichments": [{"capability": "object detection", "name": "things", "labels": ["circle"]}],
            "models": {"florence-2": {"id": str(MODEL_FOLDER)}},
        }
        path.write_text(yaml.safe_dump(asked | sections))
        return path

    def seconds(self, command: Command) -> float:
        """The wall time of a command."""
        began = time.perf_counter()
        done = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        taken = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"{command} failed: {done.stderr}")
        return taken


def publish_all(path: Path) -> None:
    """Give every object of a spec's source its rows, so that a run finds nothing to do."""
    spec = read_spec(path)
    Catalog(uri=spec.catalog).publish(rows_of(discover.fn(spec).inventory, spec))


def ratio(place: Place, ours: Command, theirs: Command, times: int, before: Callable[[], None] = lambda: None) -> str:
    """Both in turns, and what the quickest of each say; `before` makes ready for each of ours.

    The first turn, in which modules are compiled and the first Prefect server leaves its database, does not count.
    """
    found = []
    for _ in range(1 + times):
        before()
        found.append((place.seconds(ours), place.seconds(theirs)))
    own, other = (min(column) for column in zip(*found[1:], strict=True))
    return f"{own / other:.2f} ({own:.2f} and {other:.2f} s)"


def write_files(folder: Path, objects: int) -> None:
    """So many files; what is not new is not opened."""
    folder.mkdir()
    for k in range(objects):
        (folder / f"{k:06d}.png").write_bytes(b"%d" % k)


def measure(which: str, place: Place, objects: int, times: int) -> str:
    """One of the ratios."""
    if which == "first":
        media = place.folder / "first-media"
        media.mkdir()
        draw_scene(1).image.save(media / "1.png")
        path = place.spec("first", f"{media}/*")
        catalog = place.folder / "first"
        run = (*SIGHTFLOW, "run", str(path), "--json")
        answer = ratio(place, run, BARE_FLOW, times, lambda: shutil.rmtree(catalog, ignore_errors=True))
        (report,) = Catalog.at(catalog).scan("runs").select("report").collect()["report"]
        return f"{answer}; {json.loads(report)['start']}"
    if which == "bucket":
        with slow_store(latency=0.0) as (endpoint, _):
            fill(endpoint, "bench", objects, side=32, form="PNG")
            path = place.spec("bucket", "s3://bench/in/**", store={"endpoint_url": endpoint})
            publish_all(path)
            return ratio(place, (*SIGHTFLOW, "run", str(path)), TABLES, times)
    media = place.folder / f"{which}-media"
    write_files(media, objects)
    path = place.spec(which, f"{media}/*")
    publish_all(path)
    if which == "query":
        asked = ("catalog", "query", str(place.folder / which), "SELECT uri FROM catalog LIMIT 1")
        return ratio(place, (*SIGHTFLOW, *asked), QUERIED, times)
    return ratio(place, (*SIGHTFLOW, "run", str(path)), TABLES, times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", default=",".join(TARGETS))
    arguments = parser.parse_args()
    for which in arguments.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(which, Place(Path(folder)), arguments.objects, arguments.times)
        print(f"{which:8} at most {TARGETS[which]}: {found}", flush=True)


if __name__ == "__main__":
    main()
