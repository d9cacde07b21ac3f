"""An S3 endpoint that stands before a real one and refuses, in the words of AWS, what a test says."""

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class RefusingS3(ThreadingHTTPServer):
    """Hands reads on to `behind`; what matches `refused` gets `code` and is told all that it sent, keys and all.

    AWS repeats the key id with InvalidAccessKeyId and the token with ExpiredToken; gateways repeat more.
    """

    daemon_threads = True

    def __init__(self, behind: str, refused: str, code: str) -> None:
        self.behind, self.refused, self.code = behind, re.compile(refused), code
        self.refusals = 0
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RefusingS3

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.refused.search(self.path):
            self.server.refusals += 1
            key, token = self.headers.get("Authorization", ""), self.headers.get("x-amz-security-token", "")
            key = key.partition("Credential=")[2].partition("/")[0]
            said = f"<Code>{self.server.code}</Code><Message>refused: {key} {token}</Message>"
            body = f"<Error>{said}<AWSAccessKeyId>{key}</AWSAccessKeyId><Token-0>{token}</Token-0></Error>".encode()
            return self._send(403, body, {"Content-Type": "application/xml"})
        passed = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        request = urllib.request.Request(self.server.behind + self.path, headers=passed, method=self.command)
        try:
            with urllib.request.urlopen(request) as answer:
                return self._send(answer.status, answer.read(), dict(answer.headers))
        except urllib.error.HTTPError as answer:
            return self._send(answer.code, answer.read(), dict(answer.headers))

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "content-length", "date", "server", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def refusing_s3(behind: str, refused: str, code: str) -> Iterator[RefusingS3]:
    server = RefusingS3(behind, refused, code)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
