"""Serving on loopback: one process, one secret, no log of what was asked."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from sightflow.schemas.failure import SpecError

_BACKLOG: Final = 128


def listen(port: int) -> socket.socket:
    """A socket on loopback, at a free port if `port` is 0. Raises SpecError if another process has it."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise SpecError(f"port {port} cannot be listened at: {error.strerror}; choose another with --port") from None
    listener.listen(_BACKLOG)
    return listener


def address(listener: socket.socket, secret: str) -> str:
    """What a person opens."""
    return f"http://127.0.0.1:{listener.getsockname()[1]}/{secret}/"


def serve(application: Any, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Answer until the process is told to end; `ready` is called right before."""
    import uvicorn

    config = uvicorn.Config(
        application,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=256,
        timeout_graceful_shutdown=3,
    )
    ready()
    uvicorn.Server(config).run(sockets=[listener])
