"""A Prefect server of our own, for one run on one machine, when none is configured.

Prefect would start one by itself, but that one outlives a killed parent and prints tracebacks when it stops.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sightflow.infra.configured_server import configured_api, configured_url
from sightflow.infra.loopback import bypass_proxies
from sightflow.infra.server_process import PrefectServer
from sightflow.schemas.failure import SightflowError
from sightflow.tasks.runtime.temporary_folder import TemporaryFolder

_ENDED = "the Prefect server of this run has ended by itself"
_lost = threading.Event()


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def prefect_api(for_one_run: bool = True, say: Callable[[str], None] = _to_stderr) -> Iterator[PrefectServer | None]:
    """Yield a starting server of our own that this process talks to, or None when Prefect is configured with one.

    `for_one_run`: see `PrefectServer`. `say` is told if our server ends by itself; a run that goes on from within is
    asked to stop then, and Prefect's client no longer waits for the server to come back.

    Raises SightflowError if the configured server does not answer or refuses the credentials, or ours has ended.
    """
    bypass_proxies()
    if configured_url():
        configured_api()
        yield None
        return
    with (
        TemporaryFolder("prefect") as folder,
        PrefectServer(folder.path, for_one_run=for_one_run, held_open=[folder.lock]) as server,
        _environment_of(server),
    ):
        # Only now: while Prefect is imported the server starts.
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from sightflow.tasks.runtime.cancellation import STOP, RunStopped

        stop = threading.Event()
        token = STOP.set(stop)
        # Nobody would miss them, and a flow that ends waits up to a second for the thread that sends them.
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}) as settings:

            def ended(status: int) -> None:
                _lost.set()
                settings.client.max_retries = 0
                stop.set()
                say(f"{_ENDED} ({_cause(status)}); what the model has begun is published first")

            server.on_end = ended
            try:
                yield server
            except (Exception, RunStopped) as error:
                if server.has_ended and not isinstance(error, SightflowError):
                    raise server_lost() from error
                raise
            finally:
                STOP.reset(token)
                if not server.has_ended:
                    deliver()


def _cause(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


@contextmanager
def _environment_of(server: PrefectServer) -> Iterator[None]:
    """Within, this process, and those that it starts, talk to `server`."""
    before = {name: os.environ.get(name) for name in server.client_environment}
    os.environ.update(server.client_environment)
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        refresh_global_settings_context()  # also where a run has failed: the next one would ask the server that is gone


def server_lost() -> SightflowError:
    """What a command ends with whose own server has ended."""
    return SightflowError(f"{_ENDED}; committed rows stay; run again, and it goes on from there")


def leave_if_server_lost(code: object) -> None:
    """End this process at once if its own server has ended: Prefect's threads would try to reach it for a minute."""
    if _lost.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def deliver() -> None:
    """Wait until Prefect's background threads have sent their logs and events, while the server is still there."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all()
    EventsWorker.drain_all()
