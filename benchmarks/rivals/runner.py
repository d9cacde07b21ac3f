"""Runs contenders: an environment for each where it needs one, a process for each, their rows checked.

python -m benchmarks.rivals.runner [--objects 500,2000] [--model device,demo] [--times 2] [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.rivals.__main__ import MODULES
from benchmarks.rivals.job import end_all

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ENVIRONMENTS = HERE.parent / ".environments"
LONGEST_SECONDS = 900
QUIET = {
    "DO_NOT_TRACK": "1",
    "SCARF_NO_ANALYTICS": "true",
    "DAFT_ANALYTICS_ENABLED": "0",
    "DAFT_PROGRESS_BAR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DATACHAIN_NO_ANALYTICS": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""The documented switches of all that would phone home, and of what would look for a cloud's metadata."""
FAIR = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Torch's threads that wait do not spin: where decoding shares the cores with the model, they would stall it."""


@dataclass(frozen=True)
class Outcome:
    """What one contender's process took. Seconds are from imports and model to the last row on the disk."""

    name: str
    version: str
    rows: int
    seconds: float
    first_row_seconds: float
    """Until the model gave its first caption."""
    load_seconds: float
    """How much of `seconds` went to loading the model in a process of the contender's own."""
    peak_memory_bytes: int
    """Of all its processes together, shared pages counted once."""
    own_peak_memory_bytes: int
    """Of the first of them alone: without a server that it started."""
    setup_seconds: float
    """From the process's start to the clock's: imports, the model, servers."""
    captions: dict[str, str]


def measure(name: str, endpoint: str, bucket: str, prefix: str, model: str, weights: Path, out: Path) -> Outcome | str:
    """Run one contender over a bucket into the empty folder `out`; what it took, or why it could not be run.

    Raises AssertionError if a key has more than one row; that each has one is for the caller to see.
    """
    python = interpreter(name)
    if isinstance(python, str):
        return python
    out.mkdir(parents=True, exist_ok=True)
    out = out.resolve()
    command = [str(python), "-m", "benchmarks.rivals", name]
    given = {"endpoint": endpoint, "bucket": bucket, "prefix": prefix, "model": model}
    for option, value in (given | {"weights": str(Path(weights).resolve()), "out": str(out)}).items():
        command += [f"--{option}", value]
    if name == "pixeltable" and os.geteuid() == 0:
        # Its PostgreSQL will not run as root; there it would add a user to the system. In a namespace root is nobody.
        command = ["unshare", "--user", "--map-user=65534", "--map-group=65534", *command]
    said = _said_by(command, out)
    if isinstance(said, str):
        return said
    pairs = json.loads((out / "rows.json").read_text())
    captions = dict(pairs)
    assert len(captions) == len(pairs), f"{name}: {len(pairs) - len(captions)} keys have more than one row"
    return Outcome(**said, captions=captions)


def _said_by(command: Sequence[str], out: Path) -> dict[str, object] | str:
    """The line of JSON that a contender's process ends with; all that it started is gone when this returns."""
    home = out / "home"
    home.mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_", "DATACHAIN_"))}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else whoever imports something late compiles it each time
    environment |= QUIET | FAIR | {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment |= {"PIXELTABLE_HOME": str(home / "pixeltable"), "DATACHAIN_ROOT_DIR": str(home / "datachain")}
    with open(out / "errors.log", "wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log)
        try:
            text, _ = process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            end_all(psutil.Process(process.pid).children(recursive=True))
            process.kill()
            process.wait()
            return f"not done in {LONGEST_SECONDS} s"
    lines = [line for line in text.decode(errors="replace").splitlines() if line.startswith('{"name"')]
    if process.returncode or not lines:
        errors = (out / "errors.log").read_text(errors="replace").strip().splitlines() or ["no word"]
        return f"failed ({process.returncode}): {errors[-1][:200]}"
    said: dict[str, object] = json.loads(lines[-1])
    return said


def interpreter(name: str) -> Path | str:
    """The Python that has a contender: this one for the loops, else one of its own, made by uv when it is missing."""
    wanted = HERE / f"requirements-{name}.txt"
    if not wanted.exists():
        return Path(sys.executable)
    place = ENVIRONMENTS / name
    python, made_from = place / "bin" / "python", place / wanted.name
    if made_from.exists() and made_from.read_text() == wanted.read_text():
        return python
    uv = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
    try:
        for step in (
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)],
            [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(wanted)],
        ):
            subprocess.run(step, check=True, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        return f"there is no uv at {uv}; run `make test` once, or set UV"
    except subprocess.CalledProcessError as error:
        return f"does not install here: {(error.stderr.strip().splitlines() or ['no word'])[-1][:200]}"
    shutil.copy(wanted, made_from)
    return python


def main() -> None:
    """Measure and print a table; rounds are interleaved, and the best of each contender is shown."""
    from benchmarks.parts.images import fill
    from benchmarks.parts.slow_store import slow_store
    from sightflow.infra.demo.bucket import MODEL_FOLDER

    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("names", nargs="*", default=[], metavar="NAME", help=f"of {', '.join(MODULES)}; default: all")
    asked.add_argument("--objects", default="500,2000")
    asked.add_argument("--model", default="device,demo")
    asked.add_argument("--times", type=int, default=2)
    given = asked.parse_args()
    names = given.names or list(MODULES)
    for objects in map(int, given.objects.split(",")):
        with slow_store() as (endpoint, _), tempfile.TemporaryDirectory() as place:
            keys = fill(endpoint, "bench", objects)
            for model in given.model.split(","):
                best: dict[str, Outcome | str] = {}
                for turn in range(given.times):
                    for name in names:
                        out = Path(place, model, f"{name}-{turn}")
                        done = measure(name, endpoint, "bench", "in/", model, MODEL_FOLDER, out)
                        if isinstance(done, Outcome):
                            assert set(done.captions) == set(keys), f"{name}: keys without a row, or rows without a key"
                            shutil.rmtree(out)
                        best[name] = better(best.get(name), done)
                print(f"\n{model}, {objects} objects, best of {given.times}\n" + table(best), flush=True)


def better(one: Outcome | str | None, other: Outcome | str) -> Outcome | str:
    """The quicker of two tries of a contender."""
    if isinstance(one, Outcome) and (isinstance(other, str) or one.seconds <= other.seconds):
        return one
    return other


def table(done: dict[str, Outcome | str]) -> str:
    """The contenders' outcomes as a Markdown table; captions are compared with those of the first."""
    head = ("contender", "objects/s", "seconds", "of it loading", "first caption", "setup", "peak MiB", "same captions")
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    first = next((each for each in done.values() if isinstance(each, Outcome)), None)
    for name, each in done.items():
        if isinstance(each, str) or first is None:
            lines.append(f"{name} | skipped: {each}" + " | " * (len(head) - 2))
            continue
        same = sum(each.captions[key] == text for key, text in first.captions.items()) / len(first.captions)
        figures = (each.seconds, each.load_seconds, each.first_row_seconds, each.setup_seconds)
        seconds = " | ".join(f"{figure:.1f}" for figure in figures)
        rate, memory = each.rows / each.seconds, each.peak_memory_bytes / 2**20
        lines.append(f"{name} ({each.version}) | {rate:.1f} | {seconds} | {memory:.0f} | {same:.1%}")
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    main()
