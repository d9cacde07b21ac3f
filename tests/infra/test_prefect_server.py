"""Our own Prefect server."""

import re
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import CloseCode
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from sightflow.infra.configured_server import configured_api, is_healthy
from sightflow.infra.prefect_server import PrefectServer
from sightflow.schemas.failure import SightflowError
from tests.e2e.service import until

_METHODS = ("get", "post", "put", "patch", "delete")


def process_of(server: PrefectServer) -> psutil.Process:
    (process,) = (each for each in psutil.Process().children() if str(server.port) in each.cmdline())
    return process


def messages(socket: ClientConnection) -> None:
    """Take what comes until the socket is closed, which must not be that the password is accepted."""
    while True:
        assert "auth_success" not in str(socket.recv(timeout=30))


def test_a_server_has_one_connection_to_its_database(prefect_server: PrefectServer) -> None:
    """With several, one may wait a minute for the lock of another, and at times the whole server does."""
    client = httpx.Client(base_url=prefect_server.api_url, timeout=60, auth=prefect_server.credentials)
    with client, ThreadPoolExecutor(16) as threads:
        made = threads.map(lambda k: client.post("/flows/", json={"name": f"at once {k}"}).status_code, range(200))
        assert set(made) == {httpx.codes.CREATED}
    server = process_of(prefect_server)
    database = str(prefect_server.folder / "prefect.db")
    # SQLite may close the file of a connection that is gone a moment later.
    until(lambda: [each.path for each in server.open_files()].count(database) == 1, 30, "one connection")


def test_without_the_password_every_route_but_health_is_refused(prefect_server: PrefectServer) -> None:
    with httpx.Client(base_url=prefect_server.api_url, timeout=60) as client:
        schema = client.get("/openapi.json", auth=prefect_server.credentials).raise_for_status().json()
        routes = [(method, path) for path, item in schema["paths"].items() for method in _METHODS if method in item]
        assert len(routes) > 150
        answers = {
            (method, path): client.request(method, re.sub(r"\{[^}]*\}", "x", path)).status_code
            for method, path in [*routes, ("get", "/openapi.json"), ("get", "/docs")]
        }
        is_open = {route for route, status in answers.items() if status != httpx.codes.UNAUTHORIZED}
        assert is_open <= {("get", "/health"), ("get", "/ready")}
        for credentials in [("sightflow", ""), ("sightflow", "x"), ("", prefect_server.credentials[1])]:
            assert client.get("/admin/version", auth=credentials).status_code == httpx.codes.UNAUTHORIZED
        assert client.get("/admin/version", auth=prefect_server.credentials).status_code == httpx.codes.OK


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled"])
def test_a_websocket_without_the_password_is_closed(prefect_server: PrefectServer, path: str) -> None:
    url = f"{prefect_server.api_url.replace('http', 'ws')}/{path}"
    with pytest.raises(InvalidStatus):
        connect(url)
    with connect(url, subprotocols=[Subprotocol("prefect")]) as socket:
        socket.send('{"type": "auth", "token": "x"}')
        with pytest.raises(ConnectionClosed) as closed:
            messages(socket)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == CloseCode.POLICY_VIOLATION


def test_a_page_of_another_origin_is_allowed_nothing(prefect_server: PrefectServer) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    own = prefect_server.api_url.removesuffix("/api")
    for origin, allowed in (("https://example.org", None), ("null", None), (own, own)):
        answer = httpx.options(f"{prefect_server.api_url}/flows/", headers={**asked, "Origin": origin})
        assert answer.headers.get("access-control-allow-origin") == allowed


def test_the_password_is_in_no_command_line_log_or_repr(prefect_server: PrefectServer) -> None:
    _, password = prefect_server.credentials
    assert len(password) >= 40
    assert password not in " ".join(process_of(prefect_server).cmdline())
    assert password not in prefect_server.log.read_text()
    assert password not in repr(prefect_server)
    assert PrefectServer(prefect_server.folder).credentials != prefect_server.credentials


def test_the_page_is_served_with_the_address_of_this_server_and_asks_for_the_password(
    prefect_server: PrefectServer,
) -> None:
    own = prefect_server.api_url.removesuffix("/api")
    settings = httpx.get(f"{own}/ui-settings").json()
    assert (settings["api_url"], settings["auth"]) == (prefect_server.api_url, "BASIC")
    page = httpx.get(own, follow_redirects=True, headers={"Accept": "text/html"})
    assert page.status_code == httpx.codes.OK and "<html" in page.text


def test_the_login_is_a_file_that_only_this_user_can_read(tmp_path: Any) -> None:
    server = PrefectServer(tmp_path)
    (tmp_path / "ui-login").write_text("an older one, which everybody can read")
    login = server.write_login()
    assert stat.S_IMODE(login.stat().st_mode) == 0o600
    assert login.read_text() == ":".join(server.credentials)


def test_a_server_that_refuses_the_password_is_named_as_such(
    prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

    assert configured_api()
    with temporary_settings({PREFECT_API_AUTH_STRING: "sightflow:another"}):
        assert is_healthy(prefect_server.api_url)
        with pytest.raises(SightflowError, match="PREFECT_API_AUTH_STRING") as refused:
            configured_api()
    assert "another" not in str(refused.value)
