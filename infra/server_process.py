"""The process of a Prefect server of our own: how it is started, watched and stopped."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from sightflow.infra.configured_server import answered_status
from sightflow.infra.loopback import bypass_proxies, free_port
from sightflow.infra.server_database import begin_with_template, leave_template
from sightflow.schemas.failure import SightflowError

_START_SECONDS = 180.0
_USER = "sightflow"
_LOOK_SECONDS = 0.5
_LAST_WORDS = 1000  # characters
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


class PrefectServer:
    """A server process on loopback with its database and log in one folder; ends when this process ends, in any way.

    It answers nobody without the random password of this object, but for its health, and no page of another origin.

    `for_one_run`: without schedules, triggers, stored events, the UI and whatever else only deployments need.
    `held_open`: descriptors that the process shares with this one. `on_end` is called with the exit status, in a thread
    of its own, should the process end by itself after it had answered. `database`: another than one of its own in the
    folder, as Prefect takes it, e.g. `postgresql+asyncpg://...`.

    Its own database has one connection. Where there are more, each may wait a minute for another's lock, and if Python
    collects a forgotten cursor of one that waits, which asks SQLite for that connection, the whole process stands
    still for as long: nobody can let go of the lock.
    """

    def __init__(
        self,
        folder: Path,
        for_one_run: bool = False,
        held_open: Sequence[int] = (),
        database: str | None = None,
    ) -> None:
        self.folder = folder
        self._given_database = database
        self._held_open = tuple(held_open)
        self._ended = threading.Event()
        self.on_end: Callable[[int], None] = lambda status: None
        self.for_one_run = for_one_run
        self.port = free_port()
        self._auth_string = f"{_USER}:{secrets.token_urlsafe(32)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._is_migrated = False

    @property
    def api_url(self) -> str:
        """What PREFECT_API_URL should be."""
        return f"{self._origin}/api"

    @property
    def credentials(self) -> tuple[str, str]:
        """User and password, for HTTP's basic authentication."""
        user, _, password = self._auth_string.partition(":")
        return user, password

    @property
    def client_environment(self) -> dict[str, str]:
        """The variables by which a process talks to this server. They hold the password: not for a log."""
        return {"PREFECT_API_URL": self.api_url, "PREFECT_API_AUTH_STRING": self._auth_string}

    @property
    def _origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """Where the server's own words go."""
        return self.folder / "prefect-server.log"

    @property
    def database(self) -> Path:
        """The file of its SQLite database."""
        return self.folder / "prefect.db"

    def write_login(self) -> Path:
        """Write the password that the UI asks for into a file that only this user can read; return its path."""
        path = self.folder / "ui-login"
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self._auth_string)
        return path

    def start(self) -> None:
        """Start the process and return at once; see `wait`."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._given_database is None:
            self._is_migrated = self.database.exists() or begin_with_template(self.database)
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
            # A page that is open somewhere does not keep it alive.
            "--timeout-graceful-shutdown",
            "3",
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self._held_open,
                # A Ctrl-C in the terminal is for the run, which still needs its server to end in good order.
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def _watch(self) -> None:
        """See in a thread of its own whether the process ends by itself."""
        process = self._process

        def look() -> None:
            while process is not None and self._process is process:
                if (status := process.poll()) is not None:
                    if self._process is process:  # and nobody has stopped it meanwhile
                        self._ended.set()
                        self.on_end(status)
                    return
                time.sleep(_LOOK_SECONDS)

        threading.Thread(target=look, name="prefect-server", daemon=True).start()

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended by itself after it had answered."""
        return self._ended.is_set()

    def _environment(self) -> dict[str, str]:
        """What the server is configured with; each by the name that Prefect looks at first."""
        environment = {
            **os.environ,
            "PREFECT_HOME": str(self.folder),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": self._database(),
            "PREFECT_SERVER_API_AUTH_STRING": self._auth_string,
            # What the server asks of itself.
            "PREFECT_API_AUTH_STRING": self._auth_string,
            # Prefect's default is every origin. Its own pages, by this address, need no permission.
            "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": self._origin,
            "PREFECT_SERVER_UI_ENABLED": str(not self.for_one_run).lower(),
            "PREFECT_SERVER_UI_API_URL": self.api_url,
            "PREFECT_UI_URL": self._origin,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
            # To remember which block types it has registered, a server would import ours: seconds and 100 MiB.
            "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
        }
        if self.for_one_run:
            environment |= {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _OF_DEPLOYMENTS}
        # A server that is told of another server would ask that one.
        for name in ("PREFECT_API_URL", "PREFECT_API_KEY"):
            environment.pop(name, None)
        bypass_proxies(environment)
        return environment

    def _database(self) -> str:
        """What was given; else a file, by a name that has Prefect keep one connection, as for databases in memory.

        SQLite passes over parameters that it does not know.
        """
        if self._given_database:
            return self._given_database
        return f"sqlite+aiosqlite:///file:{quote(str(self.database.resolve()))}?uri=true&as=:memory:"

    def wait(self) -> None:
        """Return when the server answers. Raises SightflowError that names the log if it ends or never answers."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            if answered_status(self.api_url, "health", None) == HTTPStatus.OK:
                # The first one takes it longer than hundreds after it.
                answered_status(self.api_url, "admin/version", self._auth_string)
                if self._given_database is None and not self._is_migrated:
                    leave_template(self.database)
                self._watch()
                return
            time.sleep(0.1)
        raise SightflowError(f"the Prefect server did not start; its log {self.log} ends with: {self._last_words()}")

    def _last_words(self) -> str:
        text = self.log.read_text(errors="backslashreplace").strip() if self.log.exists() else ""
        return text[-_LAST_WORDS:] or "(nothing)"

    def stop(self) -> None:
        """End the process, politely first."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End the process at once, as a machine that fails does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def __enter__(self) -> PrefectServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def end_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, also by SIGKILL; elsewhere the parent's `stop` has to do."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
