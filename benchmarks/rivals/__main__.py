"""One contender on one bucket, in whatever interpreter has it; prints one line of JSON.

python -m benchmarks.rivals NAME --endpoint URL --bucket B --prefix in/ --model demo|device --weights FOLDER --out OUT

The rows are read back from where the contender wrote them, and left beside as rows.json.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import time
from pathlib import Path

import psutil

from benchmarks.rivals.job import Job

MODULES = {
    "in memory": "in_memory",
    "sightflow": "with_sightflow",
    "naive": "naive",
    "careful": "careful",
    "daft": "with_daft",
    "ray": "with_ray",
    "pixeltable": "with_pixeltable",
    "datachain": "with_datachain",
}


def main() -> None:
    """Run it and print what it took."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("name", choices=MODULES)
    for option in ("--endpoint", "--bucket", "--prefix", "--weights"):
        asked.add_argument(option, required=True)
    asked.add_argument("--model", choices=["demo", "device"], required=True)
    asked.add_argument("--out", type=Path, required=True)
    given = asked.parse_args()
    started = time.monotonic() - (time.time() - psutil.Process().create_time())
    job = Job(given.endpoint, given.bucket, given.prefix, given.model, given.weights, given.out.resolve())
    job.out.mkdir(parents=True, exist_ok=True)
    job.memory.watch()
    if given.name == "sightflow":
        from sightflow.tasks.memory.allocator import keep_little

        keep_little()  # as the command line does at its start
    contender = importlib.import_module(f"benchmarks.rivals.{MODULES[given.name]}")
    rows = contender.run(job)
    job.memory.stop()
    (job.out / "rows.json").write_text(json.dumps(rows))
    said = {
        "name": given.name,
        "version": contender.VERSION,
        "rows": len(rows),
        "seconds": job.ended - job.began,
        "first_row_seconds": float((job.out / "first").read_text()) - job.began,
        "load_seconds": _loading(job),
        "peak_memory_bytes": job.memory.peak_bytes,
        "own_peak_memory_bytes": job.memory.own_peak_bytes,
        "setup_seconds": job.began - started,
    }
    print(json.dumps(said), flush=True)


def _loading(job: Job) -> float:
    """How much of the time on the clock a process of the contender's own spent on loading the model."""
    spans = [ast.literal_eval(note.read_text()) for note in job.out.glob("loaded-*")]
    return max(0.0, *(min(end, job.ended) - max(begin, job.began) for begin, end in spans))


if __name__ == "__main__":
    main()
