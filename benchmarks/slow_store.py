"""An S3 endpoint in a process of its own, each of whose answers comes 20 ms later: the network that loopback lacks.

python -m benchmarks.slow_store PORT [SECONDS]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

LATENCY = 0.020


@contextmanager
def slow_store(latency: float = LATENCY) -> Iterator[tuple[str, psutil.Process]]:
    """Yield the endpoint's URL and its process, whose CPU is the store's own."""
    import urllib.request

    from infra.prefect_server import end_with_parent, free_port

    port = free_port()
    command = [sys.executable, "-m", "benchmarks.slow_store", str(port), str(latency)]
    process = subprocess.Popen(command, preexec_fn=end_with_parent, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url, psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Serve until killed."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *_: Any) -> None:
            pass

    moto = DomainDispatcherApplication(create_backend_app)
    latency = float(sys.argv[2])

    def late(environment: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        time.sleep(latency)
        answer: Iterable[bytes] = moto(environment, start_response)
        return answer

    os.environ.setdefault("MOTO_ALLOW_NONEXISTENT_REGION", "true")
    make_server("127.0.0.1", int(sys.argv[1]), late, threaded=True, request_handler=Handler).serve_forever()


if __name__ == "__main__":
    main()
