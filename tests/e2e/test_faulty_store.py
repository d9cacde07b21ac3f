"""An S3 endpoint that is busy, slow, or cuts bodies short: what passes by itself is tried again, the rest is told."""

import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image

from blocks.object_store import ObjectStore
from flows.enrich import enrich
from schemas.spec import read_spec
from tests.e2e.test_ugly_inputs import encoded, outcome

pytestmark = pytest.mark.usefixtures("prefect_server")
BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Proxy(ThreadingHTTPServer):
    """Stands before a real endpoint and spoils the answers for keys by their names, so many times."""

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.seen: Counter[str] = Counter()
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        name = unquote(self.path.partition("?")[0]).rpartition("/")[2]
        with self.server.lock:
            self.server.seen[name] += 1
            times = self.server.seen[name]
        kind, _, limit = name.removesuffix(".png").partition("-")
        spoiled = name.endswith(".png") and times <= (10**6 if limit == "always" else int(limit or 0))
        if spoiled and kind == "busy":
            return self._send(503, BUSY, {})
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection",)}
        request = urllib.request.Request(self.server.endpoint + self.path, headers=headers)
        with urllib.request.urlopen(request) as answer:
            body = answer.read()
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in ("connection", "transfer-encoding")}
        if spoiled and kind == "stalled":
            self._send(200, body, kept, upto=10, hang=True)
        elif spoiled and kind == "cut":
            self._send(200, body, kept, upto=len(body) // 2)
        else:
            self._send(200, body, kept)
        return None

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], upto: int | None = None, hang: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:upto])
        self.wfile.flush()
        if hang:
            self.rfile.read(1)  # until the other side gives up
        if upto is not None:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def proxied(endpoint: str) -> Iterator[Proxy]:
    proxy = Proxy(endpoint)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


def test_what_passes_is_tried_again_and_what_does_not_is_told(
    bucket: Any, write_spec: Any, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["good", "busy-2", "cut-2", "stalled-1", "busy-always", "cut-always"]
    for name in names:
        bucket.put(f"in/{name}.png", encoded(Image.effect_noise((40, 40), 50).convert("RGB")))
    # The same store, but one that does not wait a minute for a stalled body.
    monkeypatch.setattr("tasks.fetch._store", _impatient)
    with proxied(bucket.endpoint) as proxy:
        endpoint = f"http://127.0.0.1:{proxy.server_address[1]}"
        spec = write_spec(f"s3://{bucket.name}/in/**", store={"endpoint_url": endpoint})
        report = enrich(read_spec(spec))
        seen = dict(proxy.seen)
    rows, failed = outcome(spec, f"s3://{bucket.name}/in/")
    assert {key for key, _ in rows} == {"good.png", "busy-2.png", "cut-2.png", "stalled-1.png"}
    assert failed == {"busy-always.png": {"fetch"}, "cut-always.png": {"fetch"}}
    assert seen["busy-2.png"] == 3 and seen["cut-2.png"] == 3 and seen["busy-always.png"] == 4
    assert report.published == 4
    # Both causes may pass by themselves: the next run tries again.
    assert (
        enrich(read_spec(write_spec(f"s3://{bucket.name}/in/**", store={"endpoint_url": bucket.endpoint}))).published
        == 2
    )


_STORES: dict[str, ObjectStore] = {}


def _impatient(settings: str) -> ObjectStore:
    if settings not in _STORES:
        _STORES[settings] = ObjectStore(endpoint_url=json.loads(settings)["endpoint_url"], timeout=2.0, attempts=4)
    return _STORES[settings]
