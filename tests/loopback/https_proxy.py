"""A company's network on loopback: a proxy that tunnels by CONNECT, and TLS by a certificate authority of its own."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import trustme

from tests.loopback.http_server import OnLoopback, QuietHandler


class ConnectProxy(OnLoopback):
    """Tunnels every CONNECT to one port of this machine, whatever host is asked for; `asked`: the hosts."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.asked: list[str] = []

    def handler(self) -> type[QuietHandler]:
        proxy = self

        class Handler(QuietHandler):
            def do_CONNECT(self) -> None:
                proxy.asked.append(self.path)
                with socket.create_connection(("127.0.0.1", proxy.port)) as there:
                    self.send_response(200)
                    self.end_headers()
                    back = threading.Thread(target=_pipe, args=(there, self.connection), daemon=True)
                    back.start()
                    _pipe(self.connection, there)
                    back.join()
                self.close_connection = True

        return Handler


def _pipe(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # hung up


def behind_tls(server: Any, host: str, folder: Path) -> Path:
    """Have a server that is running on loopback speak TLS as `host`; gives the file of the authority's certificate."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
    file = folder / "company-ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return file
