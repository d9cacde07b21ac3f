"""An S3 endpoint in a process of its own, each of whose answers comes 20 ms later: the network that loopback lacks.

python -m benchmarks.parts.slow_store PORT [SECONDS]

It is moto's, whose answers to reads are kept and given again until something is written: a store that is elsewhere
takes none of this machine's processor, and this one takes little.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import psutil

if TYPE_CHECKING:
    from aiohttp import web

LATENCY = 0.020
_READS = frozenset({"GET", "HEAD"})
_PART_OF_THE_QUESTION = ("Range", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
_OF_THE_CONNECTION = frozenset({"connection", "date", "server", "transfer-encoding"})


class Answer(NamedTuple):
    """What the store answered a request."""

    status: int
    headers: list[tuple[str, str]]
    content: bytes


@contextmanager
def slow_store(latency: float = LATENCY) -> Iterator[tuple[str, psutil.Process]]:
    """Yield the endpoint's URL and its process, whose CPU is the store's own."""
    import urllib.request

    from sightflow.infra.loopback import free_port
    from sightflow.infra.server_process import end_with_parent

    port = free_port()
    command = [sys.executable, "-m", "benchmarks.parts.slow_store", str(port), str(latency)]
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


async def serve(port: int, latency: float) -> None:
    """Serve until killed."""
    from aiohttp import web
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.test import Client

    moto = Client(DomainDispatcherApplication(create_backend_app))
    kept: dict[tuple[str | None, ...], Answer] = {}
    writes = 0

    def ask(request: web.BaseRequest, body: bytes) -> Answer:
        path, _, query = request.raw_path.partition("?")
        answer = moto.open(
            path, method=request.method, query_string=query, headers=list(request.headers.items()), data=body
        )
        headers = [(name, value) for name, value in answer.headers if name.lower() not in _OF_THE_CONNECTION]
        return Answer(answer.status_code, headers, answer.data)

    def holds(found: Answer, request: web.BaseRequest) -> bool:
        wanted = request.headers.get("If-Match")
        return wanted is None or ("ETag", wanted) in found.headers

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal writes
        began, before = time.monotonic(), writes
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        body = await request.read()
        question = (request.method, request.raw_path, *(request.headers.get(name) for name in _PART_OF_THE_QUESTION))
        if (found := kept.get(question)) is None or not holds(found, request):
            found = await asyncio.to_thread(ask, request, body)
            if request.method not in _READS:
                writes += 1
                kept.clear()
            elif found.status < 400 and writes == before:  # else it may say what was there before a write
                kept[question] = found
        await asyncio.sleep(began + latency - time.monotonic())
        return web.Response(status=found.status, headers=found.headers, body=found.content)

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    os.environ.setdefault("MOTO_ALLOW_NONEXISTENT_REGION", "true")
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))


if __name__ == "__main__":
    main()
