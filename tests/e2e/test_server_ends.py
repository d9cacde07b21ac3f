"""A run with a server of its own: what ends which, and that nothing is left behind."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.spec_reader import read_spec
from tests.e2e.service import Service, service, until
from tests.e2e.test_incremental import flat

SHARD = 6


@contextmanager
def running(tmp_path: Path, write_spec: Any, *command: str) -> Iterator[tuple[Service, Catalog, psutil.Process, Path]]:
    """A command on 24 files in shards of six that stands in the middle of the second shard, at a gate; its server."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "media").mkdir()
    for k in range(4 * SHARD):
        (tmp_path / "media" / f"{k:02d}.png").write_bytes(flat((k, 0, 0)))
    policy = {"shard_size": SHARD, "shards_ahead": 1, "commit_rows": SHARD}
    spec = write_spec(f"{tmp_path}/media/*", policy=policy)
    catalog = Catalog(uri=read_spec(spec).catalog)
    log, gate = tmp_path / "asked.log", tmp_path / "gate"
    gate.write_text(str(SHARD + 2))
    environment = {"TMPDIR": str(tmp_path / "tmp"), "STAND_IN_GATE": str(gate), "STAND_IN_LOG": str(log)}
    with service(tmp_path, None, **environment) as parts:
        process = parts.start("run", command[0], str(spec), *command[1:])
        until(lambda: log.exists() and log.read_text().count("\n") == 2 * SHARD, 120, "the second shard is asked")
        (server,) = (each for each in psutil.Process(process.pid).children() if "uvicorn" in each.cmdline())
        yield parts, catalog, server, gate


def held(catalog: Catalog) -> int:
    return int(catalog.scan("enrichments").collect().height)


def folders(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "tmp").glob("sightflow-*"))


def test_a_server_that_dies_is_named_within_seconds_and_what_was_asked_is_published(
    tmp_path: Path, write_spec: Any
) -> None:
    with running(tmp_path, write_spec, "run") as (parts, catalog, server, gate):
        server.kill()
        until(lambda: "has ended by itself (killed by SIGKILL)" in parts.log("run"), 5, "it is said at once")
        gate.unlink()
        began = time.monotonic()
        assert parts.ended("run") == 1
        assert time.monotonic() - began < 20
        assert "committed rows stay; run again" in parts.log("run") and "Traceback" not in parts.log("run")
        assert 2 * SHARD <= held(catalog) < 4 * SHARD
        assert folders(tmp_path) == []


def test_ctrl_c_in_the_terminal_does_not_reach_the_server_and_ends_the_run(tmp_path: Path, write_spec: Any) -> None:
    with running(tmp_path, write_spec, "run") as (parts, catalog, server, gate):
        assert os.getsid(server.pid) == server.pid
        os.killpg(parts.processes["run"].pid, signal.SIGINT)  # as a terminal does, to all in the foreground
        gate.unlink()
        began = time.monotonic()
        assert parts.ended("run") == 1
        assert time.monotonic() - began < 30
        assert "interrupted; what was committed stays" in parts.log("run")
        assert held(catalog) >= 2 * SHARD, "the shard in flight too"
        assert not server.is_running() and folders(tmp_path) == []


def test_the_folder_of_a_killed_run_is_removed_by_the_next_start_and_no_other(tmp_path: Path, write_spec: Any) -> None:
    with running(tmp_path, write_spec, "run") as (parts, catalog, server, gate):
        (stale,) = folders(tmp_path)
        parts.kill("run")
        psutil.wait_procs([server], timeout=20)
        assert stale.exists()
        (foreign := tmp_path / "tmp" / "sightflow-prefect-of-somebody").mkdir()
        gate.unlink()
        parts.run("run", str(tmp_path / "spec.yaml"))
        assert folders(tmp_path) == [foreign]
        assert held(catalog) == 4 * SHARD


def test_serve_ends_when_its_server_does(tmp_path: Path, write_spec: Any) -> None:
    with running(tmp_path, write_spec, "serve", "--interval", "2", "--poll", "0.5") as (
        parts,
        catalog,
        server,
        gate,
    ):
        login = re.search(r"it is in (\S+),", parts.log("run"))
        assert login is not None and Path(login[1]).read_text() not in parts.log("run")
        server.kill()
        until(lambda: "has ended by itself (killed by SIGKILL)" in parts.log("run"), 5, "it is said at once")
        gate.unlink()
        began = time.monotonic()
        assert parts.ended("run") == 1
        assert time.monotonic() - began < 40
        assert "Traceback" not in parts.log("run")
        assert held(catalog) >= 2 * SHARD
