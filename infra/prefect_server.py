"""A Prefect server of our own, for one run on one machine, when none is configured.

Prefect would start one by itself, but that one outlives a killed parent and prints tracebacks when it stops.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from sightflow.schemas.failure import SightflowError

_START_SECONDS = 180.0
_OF_DEPLOYMENTS = (
    "CANCELLATION_CLEANUP",
    "EVENT_PERSISTER",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "SCHEDULER",
    "TRIGGERS",
)
"""Services of the server that a run which was started by hand has no use for, and that take its cores."""


class PrefectAway(SightflowError):
    """The configured Prefect server does not answer."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"Prefect is configured with {address}, and no server answers there; start it, or run "
            "`prefect config unset PREFECT_API_URL` (or unset the variable) to let this run start one of its own"
        )
        self.address = address


class PrefectServer:
    """A server process on loopback with its database and log in one folder; ends when this process ends, in any way.

    `for_one_run`: without schedules, triggers, stored events and whatever else only deployments need.

    The database has one connection. Where there are more, each may wait a minute for another's lock, and if Python
    collects a forgotten cursor of one that waits, which asks SQLite for that connection, the whole process stands
    still for as long: nobody can let go of the lock.
    """

    def __init__(self, folder: Path, port: int | None = None, for_one_run: bool = False) -> None:
        self.folder = folder
        self.for_one_run = for_one_run
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def api_url(self) -> str:
        """What PREFECT_API_URL should be."""
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def log(self) -> Path:
        """Where the server's own words go."""
        return self.folder / "prefect-server.log"

    def start(self) -> None:
        """Start the process and return at once; see `wait`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "PREFECT_HOME": str(self.folder),
            "PREFECT_API_DATABASE_CONNECTION_URL": self._database(),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
        }
        if self.for_one_run:
            environment |= {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _OF_DEPLOYMENTS}
        # A server that is told of another server would ask that one.
        environment.pop("PREFECT_API_URL", None)
        command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
        command += [
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--log-level",
            "warning",
            "--timeout-keep-alive",
            "30",
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=end_with_parent
            )

    def _database(self) -> str:
        """A file, by a name that has Prefect keep one connection, as it does for databases in memory.

        SQLite passes over parameters that it does not know.
        """
        return f"sqlite+aiosqlite:///file:{quote(str(self.folder.resolve() / 'prefect.db'))}?uri=true&as=:memory:"

    def wait(self) -> None:
        """Return when the server answers. Raises SightflowError that names the log if it ends or never answers."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            if is_healthy(self.api_url):
                _answers(self.api_url, "admin/version")  # the first one takes it longer than hundreds after it
                return
            time.sleep(0.1)
        raise SightflowError(f"the Prefect server did not start; its log is {self.log}")

    def stop(self) -> None:
        """End the process, politely first."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the process at once, as a machine that fails does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> PrefectServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextmanager
def prefect_api(for_one_run: bool = True) -> Iterator[PrefectServer | None]:
    """Yield a starting server of our own that this process talks to, or None when Prefect is configured with one.

    `for_one_run`: see `PrefectServer`.

    Raises SightflowError if the configured server does not answer.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, get_current_settings, temporary_settings

    if get_current_settings().api.url:
        configured_api()
        yield None
        return
    with (
        tempfile.TemporaryDirectory(prefix="sightflow-prefect-", ignore_cleanup_errors=True) as folder,
        PrefectServer(Path(folder), for_one_run=for_one_run) as server,
    ):
        os.environ["PREFECT_API_URL"] = server.api_url
        refresh_global_settings_context()
        try:
            # Nobody would miss them, and a flow that ends waits up to a second for the thread that sends them.
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                yield server
        finally:
            deliver()
            del os.environ["PREFECT_API_URL"]
            refresh_global_settings_context()


def configured_api() -> str:
    """The address of the UI of the Prefect server that this process talks to.

    Raises SightflowError if none is configured, PrefectAway if it does not answer.
    """
    from prefect.settings import get_current_settings

    if not (configured := get_current_settings().api.url):
        raise SightflowError(
            "no Prefect server is configured; start one with `prefect server start`, and say where it is: "
            "prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    if not is_healthy(configured):
        raise PrefectAway(configured)
    return (get_current_settings().ui_url or configured).removesuffix("/api")


def await_api(say: Callable[[str], None]) -> str:
    """As `configured_api`, for what is started along with the server: one that does not answer yet is waited for."""
    told = False
    while True:
        try:
            return configured_api()
        except PrefectAway as error:
            if not told:
                say(f"{error.address} does not answer; waiting for it")
            told = True
            time.sleep(1)


def deliver() -> None:
    """Wait until Prefect's background threads have sent their logs and events, while the server is still there."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all()
    EventsWorker.drain_all()


def is_healthy(api_url: str) -> bool:
    """Whether a Prefect server answers at this address."""
    return _answers(api_url, "health")


def _answers(api_url: str, question: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api_url.rstrip('/')}/{question}", timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def end_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, also by SIGKILL; elsewhere the parent's `stop` has to do."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
