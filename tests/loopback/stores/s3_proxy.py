"""An S3 endpoint that stands before a real one and spoils what a test says: refused, busy, cut short or stalled."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote

from tests.loopback.http_server import OnLoopback, QuietHandler
from tests.loopback.server import CutBody, Stall

_OF_THIS_CONNECTION = ("connection", "content-length", "date", "server", "transfer-encoding")


@dataclass(frozen=True)
class Refuse:
    """Answer with a status and an error in S3's XML, without asking the endpoint behind."""

    status: int
    error: str


@dataclass(frozen=True)
class Trickle:
    """Announce a whole answer and give it a byte at a time, ten a second."""


Spoiled = Refuse | CutBody | Stall | Trickle | None


class S3Proxy(OnLoopback):
    """Hands requests on to `behind`; `spoil` is given the request and how often its object was asked for, from 1."""

    def __init__(self, behind: str, spoil: Callable[[BaseHTTPRequestHandler, int], Spoiled]) -> None:
        super().__init__()
        self.behind, self.spoil = behind, spoil
        self.seen: Counter[str] = Counter()  # by the last part of the key
        self.refusals = 0
        self._lock = threading.Lock()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(QuietHandler):
            def answer(self) -> None:
                proxy._answer(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        return Handler

    def _answer(self, http: BaseHTTPRequestHandler) -> None:
        sent = http.sent = http.rfile.read(int(http.headers.get("Content-Length") or 0))  # type: ignore[attr-defined]
        name = unquote(http.path.partition("?")[0]).rpartition("/")[2]
        with self._lock:
            self.seen[name] += 1
            spoiled = self.spoil(http, self.seen[name])
            self.refusals += isinstance(spoiled, Refuse)
        if isinstance(spoiled, Refuse):
            return self._send(http, spoiled.status, spoiled.error.encode(), {"Content-Type": "application/xml"})
        passed = {k.title(): v for k, v in http.headers.items() if k.lower() not in ("connection", "expect")}
        if sent:  # urllib would call a body without a type a form, and moto would then take it apart
            passed.setdefault("Content-Type", "application/octet-stream")
        request = urllib.request.Request(self.behind + http.path, sent or None, passed, method=http.command)
        try:
            with urllib.request.urlopen(request) as answer:
                status, body, headers = answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            status, body, headers = error.code, error.read(), dict(error.headers)
        self._send(http, status, body, headers, spoiled)
        return None

    def _send(
        self,
        http: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: Mapping[str, Any],
        spoiled: CutBody | Stall | Trickle | None = None,
    ) -> None:
        length = headers.get("Content-Length", "0") if http.command == "HEAD" else str(len(body))
        http.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _OF_THIS_CONNECTION:
                http.send_header(name, value)
        http.send_header("Content-Length", length)
        http.end_headers()
        if http.command == "HEAD":
            return
        while isinstance(spoiled, Trickle) and body and not self.closing.wait(0.1):
            http.wfile.write(body[:1])
            http.wfile.flush()
            body = body[1:]
        http.wfile.write(body[: len(body) // 2] if spoiled else body)
        http.wfile.flush()
        if isinstance(spoiled, Stall):
            self.closing.wait()
        http.close_connection = http.close_connection or spoiled is not None
