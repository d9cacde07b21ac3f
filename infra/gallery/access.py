"""Who is let in: whoever knows the secret in the address, from this machine, and no page of another origin.

The secret stands in the path and not in a cookie: cookies of 127.0.0.1 go to every port of it, so to every other server
on this machine. Pages send no referrer, so that it leaves the browser nowhere.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from sightflow.infra.loopback import LOOPBACK_HOSTS

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_MOST_BODY: Final = 4 * 2**20


def new_secret() -> str:
    """A path segment that nobody guesses: 192 bits."""
    return secrets.token_urlsafe(24)


class Guard:
    """ASGI middleware: what comes without the secret, or from another origin, learns nothing and changes nothing.

    A wrong secret is an empty 404. `Host` must be a name of this machine, by which a name that was rebound to it is
    refused. What changes something must come from a page of this origin (`Sec-Fetch-Site`, else `Origin`) and carry a
    header that no form can send. Bodies are bounded.
    """

    def __init__(self, application: Application, secret: str) -> None:
        self._application, self._prefix = application, f"/{secret}/".encode()

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"].encode("utf-8", "surrogatepass")
        known = secrets.compare_digest(path[: len(self._prefix)], self._prefix)
        if not known or not _is_this_machine(headers.get("host", "")):
            await _refuse(send, 404)
            return
        if scope["method"] not in ("GET", "HEAD") and not _comes_from_our_page(headers):
            await _refuse(send, 403)
            return
        inner = {**scope, "path": scope["path"][len(self._prefix) - 1 :], "root_path": "", "raw_path": None}

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        await self._application(inner, _bounded(receive), guarded)


def _is_this_machine(host: str) -> bool:
    """Whether a `Host` header names loopback; the port may be that of a tunnel."""
    try:
        return urlsplit(f"//{host}").hostname in LOOPBACK_HOSTS
    except ValueError:
        return False


def _comes_from_our_page(headers: MutableMapping[str, str]) -> bool:
    if headers.get("x-sightflow") != "1" or not headers.get("content-type", "").startswith("application/json"):
        return False
    if site := headers.get("sec-fetch-site"):
        return site == "same-origin"
    return headers.get("origin") == f"http://{headers.get('host')}"


def _bounded(receive: Callable[[], Awaitable[Message]]) -> Callable[[], Awaitable[Message]]:
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > _MOST_BODY:
            return {"type": "http.disconnect"}
        return message

    return bounded


async def _refuse(send: Callable[[Message], Awaitable[None]], status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0"), *_HEADERS]})
    await send({"type": "http.response.body", "body": b""})
