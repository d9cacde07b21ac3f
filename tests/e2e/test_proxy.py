"""A proxy that is named in the environment is not asked for what runs on this machine."""

import time
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.infra.loopback import free_port
from sightflow.schemas.spec_reader import read_spec
from tests.e2e.service import Service
from tests.e2e.test_incremental import flat


@pytest.mark.timeout(240)
def test_a_run_with_a_server_of_its_own_asks_no_proxy(tmp_path: Path, write_spec: Any) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "1.png").write_bytes(flat((1, 2, 3)))
    spec = write_spec(f"{tmp_path}/media/*")
    dead = f"http://127.0.0.1:{free_port()}"
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), dead)
    began = time.monotonic()
    Service(tmp_path, None, NO_PROXY="intranet", no_proxy="", **proxies).run("run", str(spec))
    assert time.monotonic() - began < 120
    assert Catalog(uri=read_spec(spec).catalog).scan("enrichments").collect().height == 1
