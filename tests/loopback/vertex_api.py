"""Gemini on Vertex AI, on loopback, with the token endpoint of a service account."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.loopback.gemini_api import GeminiOnLoopback

_PATH = re.compile(r"/v1beta1/projects/([^/]+)/locations/([^/]+)/publishers/google/models/([^/:]+):generateContent")
TOKEN = "ya29.loopback-token-of-a-service-account"


class VertexOnLoopback(GeminiOnLoopback):
    """`places`: the project and location of every request. `refuses`: whether it gives no token."""

    def __init__(self, behaviour: Any, refuses: bool = False) -> None:
        super().__init__(behaviour)
        self.places: list[tuple[str, str]] = []
        self.refuses = refuses

    def understand(self, path: str, body: Any, headers: Mapping[str, str]) -> tuple[str, str, list[str], list[bytes]]:
        found = _PATH.fullmatch(path.partition("?")[0])
        if not found:
            raise ValueError(f"no such path: {path}")
        self.places.append((found[1], found[2]))
        key = headers["authorization"].removeprefix("Bearer ")
        if key != TOKEN or "x-goog-api-key" in headers:
            raise ValueError("no token of this service account")
        return super().understand(f"/v1beta/models/{found[3]}:generateContent", body, {"x-goog-api-key": key})

    def aside(self, http: Any, method: str) -> bool:
        if method != "POST" or http.path != "/token":
            return False
        http.rfile.read(int(http.headers["Content-Length"]))
        if self.refuses:
            self._reply(http, 400, {"error": "invalid_grant", "error_description": "the account is gone"})
        else:
            self._reply(http, 200, {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})
        return True

    def credentials(self, folder: Path) -> Path:
        """The file of a service account whose tokens come from here."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account = {
            "type": "service_account",
            "project_id": "of-the-account",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": "sightflow@of-the-account.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }
        file = folder / "credentials.json"
        file.write_text(json.dumps(account))
        return file
