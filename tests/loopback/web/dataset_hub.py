"""A hub of datasets on loopback: trees in pages, information about paths, and files, small ones and large ones.

As published for the hub's API: a file has git's hash, and one of large file storage its SHA-256 beside it; `resolve`
sends a small file itself and redirects to another host for a large one; what is missing is said by `X-Error-Code`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.loopback.http_server import OnLoopback, QuietHandler


class FilesOnLoopback(OnLoopback):
    """Where large files lie: another host, which must see no token."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.headers: list[dict[str, str]] = []

    def handler(self) -> type[BaseHTTPRequestHandler]:
        files = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                files.headers.append({name.lower(): value for name, value in self.headers.items()})
                _send(self, 200, files.files[self.path.strip("/")], {"ETag": '"another"'})

        return Handler


@dataclass
class Revision:
    """The files of a repository at a revision, by their paths; `large` ones lie in large file storage."""

    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)


class DatasetHub(OnLoopback):
    """Serves `owner/name`. `token`: what must be sent; `page`: entries of a page; `spoil`: what an entry tells else."""

    def __init__(self, storage: FilesOnLoopback) -> None:
        super().__init__()
        self.storage = storage
        self.revisions: dict[str, Revision] = {"main": Revision()}
        self.token: str | None = None
        self.page = 2
        self.spoil: dict[str, dict[str, Any]] = {}
        self.circles = False
        self.asked: list[str] = []

    def put(self, path: str, content: bytes, revision: str = "main", large: bool = False) -> str:
        held = self.revisions.setdefault(revision, Revision())
        held.files[path] = content
        (held.large.add if large else held.large.discard)(path)
        at = "" if revision == "main" else "@" + revision.replace("/", "%2F")
        return f"hf://datasets/owner/name{at}/{path}"

    def handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                hub._answer(self)

            def do_POST(self) -> None:
                hub._answer(self)

        return Handler

    def _answer(self, http: BaseHTTPRequestHandler) -> None:
        self.asked.append(f"{http.command} {http.path}")
        body = http.rfile.read(int(http.headers.get("Content-Length", 0)))
        parts = urlsplit(http.path)
        found = re.fullmatch(
            r"/(?:api/datasets/owner/name/(tree|paths-info)|datasets/owner/name/(resolve))/([^/]+)(?:/(.*))?",
            parts.path,
        )
        if not found or (self.token and http.headers.get("Authorization") != f"Bearer {self.token}"):
            return self._missing(http, 401 if self.token or not found else 404, "RepoNotFound")
        revision = self.revisions.get(unquote(found[3]))
        if revision is None:
            return self._missing(http, 404, "RevisionNotFound")
        path = unquote(found[4] or "")
        if found[2]:
            return self._resolve(http, revision, path)
        if found[1] == "paths-info":
            wanted = json.loads(body)["paths"]
            return self._say(http, [self._entry(revision, each) for each in wanted if each in revision.files])
        paths = sorted(each for each in revision.files if not path or each.startswith(f"{path}/"))
        if path and not paths:
            return self._missing(http, 404, "EntryNotFound")
        first = int(parse_qs(parts.query).get("cursor", ["0"])[0])
        following = 0 if self.circles else first + self.page
        link = f'<{self.url}{parts.path}?recursive=true&cursor={following}>; rel="next"'
        more = {"Link": link} if first + self.page < len(paths) or self.circles else {}
        entries: list[Any] = [{"type": "directory", "path": "folder", "oid": "0" * 40, "size": 0}] if not first else []
        entries += [self._entry(revision, each) for each in paths[first : first + self.page]]
        return self._say(http, entries, more)

    def _entry(self, revision: Revision, path: str) -> Any:
        content = revision.files[path]
        told: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
        if path in revision.large:
            told["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return told | self.spoil.get(path, {})

    def _resolve(self, http: BaseHTTPRequestHandler, revision: Revision, path: str) -> None:
        content = revision.files.get(path)
        if content is None:
            return self._missing(http, 404, "EntryNotFound")
        if path not in revision.large:
            return _send(http, 200, content, {"ETag": f'"{git_hash(content)}"'})
        digest = hashlib.sha256(content).hexdigest()
        self.storage.files[digest] = content
        where = {"Location": f"{self.storage.url}/{digest}", "X-Linked-ETag": f'"{digest}"'}
        return _send(http, 302, b"", {**where, "X-Linked-Size": str(len(content))})

    def _missing(self, http: BaseHTTPRequestHandler, status: int, code: str) -> None:
        _send(http, status, json.dumps({"error": code}).encode(), {"X-Error-Code": code})

    def _say(self, http: BaseHTTPRequestHandler, value: Any, headers: dict[str, str] | None = None) -> None:
        _send(http, 200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


def git_hash(content: bytes) -> str:
    """The hash of a blob as git makes it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _send(http: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str]) -> None:
    http.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(content))}.items():
        http.send_header(name, value)
    http.end_headers()
    http.wfile.write(content)
