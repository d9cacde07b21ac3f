"""Our own Prefect server."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil

from sightflow.infra.prefect_server import PrefectServer
from tests.e2e.service import until


def test_a_server_has_one_connection_to_its_database(prefect_server: PrefectServer) -> None:
    """With several, one may wait a minute for the lock of another, and at times the whole server does."""
    client = httpx.Client(base_url=prefect_server.api_url, timeout=60)
    with client, ThreadPoolExecutor(16) as threads:
        made = threads.map(lambda k: client.post("/flows/", json={"name": f"at once {k}"}).status_code, range(200))
        assert set(made) == {httpx.codes.CREATED}
    (server,) = (each for each in psutil.Process().children() if str(prefect_server.port) in each.cmdline())
    database = str(prefect_server.folder / "prefect.db")
    # SQLite may close the file of a connection that is gone a moment later.
    until(lambda: [each.path for each in server.open_files()].count(database) == 1, 30, "one connection")
