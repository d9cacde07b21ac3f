"""A hub of weights on loopback: the calls that a download makes, and refusals, stalls and broken connections."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.loopback.http_server import OnLoopback, QuietHandler

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubOnLoopback(OnLoopback):
    """Serves one folder as the repository `owner/tiny`. Use as a context manager.

    `refuse`: (status, error code) for every call about the repository; with `refuse_files` only for its files, as for
    a gated repository whose page is public. `stop_after`: bytes of a file of weights after which the connection is
    closed, once; with `hold` it stays open and silent, and `held` is set. `ranges`: what parts were asked for.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.refuse: tuple[int, str] | None = None
        self.refuse_files: tuple[int, str] | None = None
        self.stop_after: int | None = None
        self.hold = False
        self.held = threading.Event()
        self.ranges: list[str] = []
        self.fetched: list[str] = []

    def handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                hub._answer(self, body=True)

            def do_HEAD(self) -> None:
                hub._answer(self, body=False)

        return Handler

    def _answer(self, http: Any, body: bool) -> None:
        path = http.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/owner/tiny(?:/revision/([^/]+))?", path):
            if match[1] not in (None, "main", COMMIT):
                return self._say(http, 404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return self._say(http, 200, {"id": "owner/tiny", "sha": COMMIT, "siblings": [], "tags": []})
        if path.startswith("/api/models/owner/tiny/tree/"):
            files = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": self._oid(f)} for f in self._files()
            ]
            return self._say(http, 200, files)
        if match := re.fullmatch(rf"/owner/tiny/resolve/(?:{COMMIT}|main)/([^/]+)", path):
            return self._file(http, self.folder / match[1], body)
        return self._say(http, 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def _files(self) -> list[Path]:
        return sorted(file for file in self.folder.iterdir() if file.is_file())

    def _oid(self, file: Path) -> str:
        content = file.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def _say(self, http: Any, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        if self.refuse:
            status, code = self.refuse
            value, headers = {"error": code}, {"X-Error-Code": code}
        content = json.dumps(value).encode()
        self._head(http, status, {"Content-Length": str(len(content)), **(headers or {})})
        http.wfile.write(content)

    def _file(self, http: Any, file: Path, body: bool) -> None:
        refused = self.refuse or self.refuse_files
        if refused or not file.is_file():
            status, code = refused or (404, "EntryNotFound")
            return self._head(http, status, {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0"})
        content, status, headers = file.read_bytes(), 200, {"ETag": f'"{self._oid(file)}"', "X-Repo-Commit": COMMIT}
        if (asked := http.headers.get("Range")) and body:
            self.ranges.append(asked)
            first = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            content, status = content[first:], 206
        self._head(http, status, headers | {"Content-Length": str(len(content)), "Accept-Ranges": "bytes"})
        if not body:
            return None
        self.fetched.append(file.name)
        stop = self.stop_after if file.suffix == ".safetensors" else None
        http.wfile.write(content[:stop])
        if stop is not None:
            self.stop_after = None
            http.wfile.flush()
            http.close_connection = True
            if self.hold:
                self.held.set()
                self.closing.wait()
        return None

    def _head(self, http: Any, status: int, headers: dict[str, str]) -> None:
        http.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            http.send_header(name, value)
        http.end_headers()
