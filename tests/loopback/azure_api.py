"""Azure OpenAI on loopback: by deployments and an api-version, or by its v1 address; and the tokens of Microsoft Entra
that a machine gets there (App Service's managed identity).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.loopback.openai_api import OpenAIOnLoopback
from tests.loopback.server import Behaviour

_DEPLOYED = re.compile(r"/openai/deployments/([^/]+)/chat/completions")
RESOURCE = "https://cognitiveservices.azure.com"
TOKEN = "eyJ0eXAiOiJKV1Qi.eyJhdWQiOiJhenVyZSJ9.c2lnbmVk"


class AzureOnLoopback(OpenAIOnLoopback):
    """`versions`: the api-versions it knows. Each request's model is the deployment that it was sent to."""

    base_path = ""

    def __init__(self, behaviour: Behaviour, versions: tuple[str, ...] = ("2024-10-21",)) -> None:
        super().__init__(behaviour)
        self.versions = versions
        self.tokens_given = 0

    def understand(self, path: str, body: Any, headers: Mapping[str, str]) -> tuple[str, str, list[str], list[bytes]]:
        address = urlsplit(path)
        if "extra_body" in body or "skip_special_tokens" in body:
            raise ValueError("unknown parameters: skip_special_tokens")
        if deployed := _DEPLOYED.fullmatch(address.path):
            (version,) = parse_qs(address.query)["api-version"]
            if version not in self.versions:
                raise ValueError(f"no such api-version: {version}")
            model, key = deployed[1], headers.get("api-key") or headers["authorization"].removeprefix("Bearer ")
        elif address.path == "/openai/v1/chat/completions":
            model, key = body["model"], headers["authorization"].removeprefix("Bearer ")
        else:
            raise ValueError(f"no such path: {path}")
        bearer = {"authorization": f"Bearer {key}"}
        _, key, texts, images = super().understand("/v1/chat/completions", body, bearer)
        return model, key, texts, images

    def aside(self, http: Any, method: str) -> bool:
        address = urlsplit(http.path)
        if method == "GET" and address.path == "/msi/token":
            (resource,) = parse_qs(address.query)["resource"]
            if resource != RESOURCE or http.headers["X-IDENTITY-HEADER"] != "loopback":
                self._reply(http, 400, {"error": "no such resource"})
                return True
            self.tokens_given += 1
            ends = str(int(time.time()) + 86_400)
            self._reply(
                http, 200, {"access_token": TOKEN, "expires_on": ends, "resource": resource, "token_type": "Bearer"}
            )
            return True
        if method == "GET":
            self._reply(http, 200, {"object": "list", "data": []})
            return True
        return False
