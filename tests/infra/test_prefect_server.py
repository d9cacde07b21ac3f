"""Our own Prefect server."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil

from infra.prefect_server import PrefectServer


def test_a_server_never_waits_for_a_lock_of_its_own(prefect_server: PrefectServer) -> None:
    """With several connections to its database it does, up to a minute, and at times stands still over it."""
    with httpx.Client(base_url=prefect_server.api_url) as client, ThreadPoolExecutor(16) as threads:
        made = threads.map(lambda k: client.post("/flows/", json={"name": f"at once {k}"}).status_code, range(200))
        assert set(made) == {httpx.codes.CREATED}
        (server,) = (each for each in psutil.Process().children() if str(prefect_server.port) in each.cmdline())
        opened = [each.path for each in server.open_files()]
    assert opened.count(str(prefect_server.folder / "prefect.db")) == 1
