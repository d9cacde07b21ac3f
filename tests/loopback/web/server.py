"""A web server on loopback, over TLS with a certificate of its own: objects, ranges, redirects and refusals."""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.loopback.http_server import OnLoopback, QuietHandler


@dataclass
class Page:
    """What lies at a path. `changed`: its Last-Modified. `says_length`, `knows_head`, `ranges`: what the server can."""

    content: bytes
    etag: str | None = None
    changed: datetime | None = None
    says_length: bool = True
    knows_head: bool = True
    ranges: bool = True
    redirect: str | None = None
    statuses: list[int] = field(default_factory=list)  # of the next answers, before it is given
    headers: dict[str, str] = field(default_factory=dict)
    sends: int | None = None  # bytes, after which the connection ends

    def __post_init__(self) -> None:
        if self.etag is None:
            self.etag = f'"{hashlib.md5(self.content).hexdigest()}"'


class WebServer(OnLoopback):
    """Serves `pages`, by their paths with queries, as they stand in the request. Use as a context manager.

    `asked`: method, path and headers of every request.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.certificate = folder / "certificate.pem"
        self._key = folder / "key.pem"
        _write_certificate(self.certificate, self._key)

    def __enter__(self) -> Self:
        super().__enter__()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self._key)
        # The handshake belongs to the thread of a connection, not to the one that accepts all of them.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        return self

    @property
    def url(self) -> str:
        return super().url.replace("http://", "https://")

    def put(self, path: str, content: bytes, **facts: Any) -> str:
        """Place an object; its address."""
        self.pages[path] = Page(content, **facts)
        return f"{self.url}{path}"

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                server._answer(self)

            def do_HEAD(self) -> None:
                server._answer(self)

        return Handler

    def _answer(self, http: BaseHTTPRequestHandler) -> None:
        self.asked.append((http.command, http.path, {name.lower(): value for name, value in http.headers.items()}))
        page = self.pages.get(http.path)
        status = page.statuses.pop(0) if page and page.statuses else 200
        if page is None or status != 200:
            return self._say(http, 404 if page is None else status, {"Content-Length": "0"})
        if page.redirect is not None:
            return self._say(http, 302, {"Location": page.redirect, "Content-Length": "0", "Set-Cookie": "a=b"})
        if http.command == "HEAD" and not page.knows_head:
            return self._say(http, 405, {"Content-Length": "0"})
        content, headers = page.content, dict(page.headers)
        if page.etag:
            headers["ETag"] = page.etag
        if page.changed:
            headers["Last-Modified"] = format_datetime(page.changed, usegmt=True)
        if page.ranges and (wanted := http.headers.get("Range")):
            first, last = (int(text) for text in wanted.removeprefix("bytes=").split("-"))
            part = content[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
            content, status = part, 206
        headers |= {"Content-Length": str(len(content))} if page.says_length else {"Connection": "close"}
        self._say(http, status, headers)
        if http.command == "GET":
            http.wfile.write(content[: page.sends])
        if page.sends is not None or not page.says_length:
            http.close_connection = True
        return None

    def _say(self, http: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        http.send_response(status)
        for name, value in headers.items():
            http.send_header(name, value)
        http.end_headers()


def _write_certificate(certificate: Path, key: Path) -> None:
    """A certificate of this machine by its own authority, for a day."""
    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder(name, name, own.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(own, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key.write_bytes(own.private_bytes(serialization.Encoding.PEM, form, plain))
