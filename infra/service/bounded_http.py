"""An HTTP server that bounds what its callers can cost: connections, bytes, and seconds until a request is read."""

from __future__ import annotations

import io
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ANSWER_SECONDS = 5.0
_UNREAD_SECONDS = 2.0
_UNREAD_BYTES = 4 * 2**20
_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True)
class HttpLimits:
    """`request_seconds`: from the connection to the last byte of the request."""

    connections: int = 256
    header_bytes: int = 16 * 1024
    body_bytes: int = 2**20  # four times what SQS takes
    request_seconds: float = 20.0


class BoundedServer(ThreadingHTTPServer):
    """A thread a connection, at most so many at once; the others are answered 503, or find the connection reset.

    Raises OSError if it cannot listen.

    Whatever a handler raises costs its own connection and nothing else.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, handler: type[BoundedHandler], limits: HttpLimits) -> None:
        self.limits = limits
        self._slots = threading.BoundedSemaphore(limits.connections)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            request.settimeout(_ANSWER_SECONDS)
            with suppress(OSError):
                request.send(_BUSY)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: whoever can connect could fill the log."""


class BoundedHandler(BaseHTTPRequestHandler):
    """One request a connection, read within the limits of the server."""

    server: BoundedServer
    rfile: _Bounded

    def setup(self) -> None:
        super().setup()
        limits = self.server.limits
        self.rfile = _Bounded(_UntilDeadline(self.connection, limits.request_seconds), limits.header_bytes)

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        if self.rfile.header_bytes_left < 0:
            self.answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return False
        return True

    def read_body(self) -> bytes | None:
        """The whole body; None if it cannot be had, which is then answered. Raises TimeoutError."""
        lengths, most = self.headers.get_all("Content-Length", []), self.server.limits.body_bytes
        if "Transfer-Encoding" in self.headers or not lengths:
            self.answer(HTTPStatus.LENGTH_REQUIRED)
        elif len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
            self.answer(HTTPStatus.BAD_REQUEST)
        # The number of digits first: Python refuses to read very long numbers.
        elif len(lengths[0]) > len(str(most)) or int(lengths[0]) > most:
            self.answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        elif len(body := self.rfile.read(int(lengths[0]))) < int(lengths[0]):
            self.answer(HTTPStatus.BAD_REQUEST)
        else:
            return body
        return None

    def answer(self, status: int) -> None:
        """A status without a body."""
        self.connection.settimeout(_ANSWER_SECONDS)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def finish(self) -> None:
        """Take what is still being sent, within limits: a connection that is closed before may cost the answer."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            until, left = time.monotonic() + _UNREAD_SECONDS, _UNREAD_BYTES
            while left > 0 and (seconds := until - time.monotonic()) > 0:
                self.connection.settimeout(seconds)
                if not (read := len(self.connection.recv(65536))):
                    break
                left -= read
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing; see `BoundedServer.handle_error`."""


class _UntilDeadline(io.RawIOBase):
    """What a socket receives, until so many seconds from now. Reading raises TimeoutError afterwards."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Bounded(io.BufferedReader):
    """A request whose lines, which are its headers, are so many bytes at most; then they end."""

    def __init__(self, raw: io.RawIOBase, header_bytes: int) -> None:
        super().__init__(raw)
        self.header_bytes_left = header_bytes

    def readline(self, size: int | None = -1, /) -> bytes:
        if self.header_bytes_left < 0:
            return b""
        most = self.header_bytes_left + 1
        line = super().readline(most if size is None or size < 0 else min(size, most))
        self.header_bytes_left -= len(line)
        return line
