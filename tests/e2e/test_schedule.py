"""A schedule fires by itself, and what is new is in the catalog without anybody typing a command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.spec_reader import read_spec
from tests.e2e.test_command_line import sightflow
from tests.e2e.test_incremental import flat

pytestmark = pytest.mark.usefixtures("prefect_server")


def held(catalog: Catalog) -> set[str]:
    return {uri.rpartition("/")[2] for uri in catalog.scan("enrichments").select("uri").collect()["uri"]}


def wait_for(catalog: Catalog, name: str, process: subprocess.Popen[bytes]) -> None:
    patience = time.monotonic() + 150
    while name not in held(catalog):
        assert process.poll() is None, "it stopped by itself"
        assert time.monotonic() < patience, f"{name} did not come"
        time.sleep(0.5)


def test_a_schedule_fires_again_and_again_until_it_is_stopped(tmp_path: Path, write_spec: Any) -> None:
    from sightflow.infra.demo.bucket import MODEL_FOLDER

    media = tmp_path / "media"
    media.mkdir()
    (media / "first.png").write_bytes(flat((200, 0, 0)))
    spec = write_spec(f"{media}/*", models={"florence-2": {"id": str(MODEL_FOLDER)}})
    catalog = Catalog(uri=read_spec(spec).catalog)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [
        sys.executable,
        "-c",
        "from sightflow.infra.cli import main; main()",
        "serve",
        str(spec),
        "--interval",
        "3",
        "--poll",
        "1",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)  # type: ignore[call-overload]
    try:
        wait_for(catalog, "first.png", process)
        (media / "second.png").write_bytes(flat((0, 0, 200)))
        wait_for(catalog, "second.png", process)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert len(held(catalog)) == 2


def test_a_schedule_is_asked_for(tmp_path: Path, write_spec: Any) -> None:
    refused = sightflow("serve", str(write_spec(f"{tmp_path}/*", models={})))
    assert refused.returncode == 2 and "say when: --cron" in refused.stderr
