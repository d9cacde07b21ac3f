"""The same spec on several processes: the same rows, also when one of them dies."""

import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.failure import Stage
from sightflow.schemas.media import MediaFile
from sightflow.schemas.run.timing import Span
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.fetch import Fetched
from sightflow.tasks.runtime.local_cluster import local_workers
from sightflow.tasks.runtime.temporary_folder import TemporaryFolder
from tests.e2e.service import ROOT, Service, until
from tests.e2e.test_incremental import flat

CAPTION = [{"capability": "image captioning", "name": "caption"}]
TWO_WORKERS = {"kind": "dask", "settings": {"workers": 2}}


def test_a_worker_that_is_killed_costs_its_shards_in_flight_and_every_row_is_true(
    tmp_path: Path, write_spec: Any, prefect_server: Any
) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for k in range(24):
        (media / f"{k:02d}.png").write_bytes(flat((k, 2 * k, 3 * k)))
    spec = write_spec(f"{media}/*", enrichments=CAPTION, runner=TWO_WORKERS, policy={"shard_size": 3})
    log, gate = tmp_path / "asked.log", tmp_path / "gate"
    gate.write_text("3")  # each worker answers one shard, and then waits with another
    loads = {"DASK_DISTRIBUTED__WORKER__PRELOAD": "tests.stand_in_cli"}
    parts = Service(tmp_path, prefect_server, STAND_IN_GATE=str(gate), STAND_IN_LOG=str(log), **loads)
    run = parts.start("run", "run", str(spec))
    try:
        until(lambda: log.exists() and log.read_text().count("\n") == 12, 120, "both workers are at work")
        spawned = [p for p in psutil.Process(run.pid).children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
        spawned[-1].kill()
        gate.unlink()
        assert run.wait(timeout=180) == 0, parts.log("run")
    finally:
        parts.stop()
    rows = Catalog(uri=read_spec(spec).catalog).scan("enrichments").collect()
    said = {row["uri"]: json.loads(row["text"]) for row in rows.iter_rows(named=True)}
    assert said == {f"file://{media}/{k:02d}.png": [k, 2 * k, 3 * k] for k in range(24)} and rows.height == 24
    asked = Counter(log.read_text().splitlines())
    assert len(asked) == 24 and asked.total() <= 24 + 2 * 3 + 3, "at most what was in flight is asked again"
    assert "Traceback" not in parts.log("run") and "distributed" not in parts.log("run"), parts.log("run")


def test_nothing_is_started_when_nothing_is_to_do_and_mistakes_are_said(
    tmp_path: Path, write_spec: Any, prefect_server: Any
) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "1.png").write_bytes(flat((1, 2, 3)))

    def ran(runner: Any, environment: dict[str, str] = {}) -> Any:  # noqa: B006
        spec = write_spec(f"{tmp_path}/media/*", enrichments=CAPTION, runner=runner)
        command = [sys.executable, "-m", "tests.stand_in_cli", "run", str(spec)]
        return subprocess.run(command, env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True)

    wrong = ran({"kind": "dask", "cluster": "dask_yarn.YarnCluster"})
    assert wrong.returncode == 2 and "dask_yarn is not installed" in wrong.stderr
    absent = ran({"kind": "dask", "address": "tcp://127.0.0.1:1"}, {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"})
    assert absent.returncode == 1 and "no Dask scheduler answers at tcp://127.0.0.1:1" in absent.stderr
    assert ran("threads").returncode == 0
    assert "nothing to do" in ran({"kind": "dask", "cluster": "dask_yarn.YarnCluster"}).stdout


@pytest.mark.parametrize("ours", [True, False], ids=["file of its own", "file of the user"])
def test_what_was_fetched_can_go_to_another_machine_and_stays_where_it_was_too(tmp_path: Path, ours: bool) -> None:
    folder = TemporaryFolder("videos")
    path = (folder.path if ours else tmp_path) / "film"
    path.write_bytes(b"moving pictures")
    span = Span(Stage.FETCH, "a:1", 1.0, 2.0)
    fetched = Fetched({"s3://b/film": MediaFile(path, "0" * 64), "s3://b/picture": b"bytes"}, [span], folder)
    there = pickle.loads(pickle.dumps(fetched))
    video = there.take("s3://b/film")
    assert isinstance(video, MediaFile) and video.path.read_bytes() == b"moving pictures" and video.sha256 == "0" * 64
    assert (video.path == path) is not ours
    assert there.take("s3://b/picture") == b"bytes" and there.spans == [span]
    there.release("s3://b/film")
    assert path.exists() and video.path.exists() is not ours


def test_our_workers_are_without_the_profiler_that_can_lock_them() -> None:
    """Its look at the frames of all threads can deadlock CPython before 3.11.9 (python/cpython#106883)."""
    import dask
    from distributed import Client

    with local_workers(1) as cluster, Client(cluster) as client:
        told = client.run(lambda: dask.config.get("distributed.worker.profile.enabled"))
        assert set(told.values()) == {False}
