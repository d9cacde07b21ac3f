"""Notifications that MinIO posts to a webhook."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections.abc import Sequence
from http import HTTPStatus
from uuid import uuid4

from sightflow.infra.loopback import is_loopback
from sightflow.infra.service.bounded_http import BoundedHandler, BoundedServer, HttpLimits
from sightflow.infra.service.notification_sources.message_source import Message
from sightflow.schemas.failure import SightflowError, SpecError

WEBHOOK_TOKEN = "SIGHTFLOW_WEBHOOK_TOKEN"  # noqa: S105 - the name of a variable
_LIMITS = HttpLimits()
_MOST_WAITING = 200  # messages; with those of the largest size, 200 MiB
_PATIENCE = 60.0  # seconds that a webhook's caller is kept waiting


class Webhook:
    """An HTTP endpoint that takes a notification a POST, and answers 200 when it is durable, else 503.

    MinIO keeps what was not answered with 200 in its own queue directory and sends it again. If SIGHTFLOW_WEBHOOK_TOKEN
    is set, the caller must send it as `Authorization: Bearer ...`, which is MinIO's `auth_token`.

    Raises SpecError if other machines could connect and there is no token, SightflowError if it cannot listen.
    """

    keep_every: float | None = None

    def __init__(
        self,
        host: str,
        port: int,
        limits: HttpLimits = _LIMITS,
        patience: float = _PATIENCE,
        most_waiting: int = _MOST_WAITING,
    ) -> None:
        token = os.environ.get(WEBHOOK_TOKEN, "")
        if not token and not is_loopback(host):
            raise SpecError(
                f"a webhook at {host} can be called from other machines, and nothing tells them from MinIO: set "
                f"{WEBHOOK_TOKEN} here and as MinIO's auth_token, or listen at 127.0.0.1"
            )
        self._waiting = waiting = _Waiting(most_waiting)

        class Handler(BoundedHandler):
            def do_POST(self) -> None:  # noqa: N802
                if token and not _is_same(self.headers.get("Authorization", ""), token):
                    self.answer(HTTPStatus.UNAUTHORIZED)
                elif (body := self.read_body()) is not None:
                    durable = threading.Event()
                    message = Message(f"webhook://{uuid4().hex}", body.decode("utf-8", "backslashreplace"), durable)
                    taken = waiting.add(message) and durable.wait(patience)
                    waiting.drop(message)
                    self.answer(HTTPStatus.OK if taken else HTTPStatus.SERVICE_UNAVAILABLE)

            def do_HEAD(self) -> None:  # noqa: N802
                self.answer(HTTPStatus.OK)  # by which MinIO asks whether somebody is there

        try:
            self._server = BoundedServer(host, port, Handler, limits)
        except OSError as error:
            raise SightflowError(f"the webhook cannot listen at {host}:{port}: {error.strerror}") from None
        threading.Thread(target=self._server.serve_forever, name="webhook", daemon=True).start()

    @property
    def address(self) -> str:
        """What MinIO's `endpoint` should be."""
        host, port = str(self._server.server_address[0]), self._server.server_address[1]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def receive(self, wait: float) -> list[Message]:
        return self._waiting.take(max(wait, 0.01))

    def keep(self, messages: Sequence[Message]) -> None:
        """Each has a caller that waits."""

    def delete(self, messages: Sequence[Message]) -> None:
        for message in messages:
            message.receipt.set()


class _Waiting:
    """The messages that were not received yet and whose callers wait, oldest first; at most so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._messages: dict[str, Message] = {}
        self._changed = threading.Condition()

    def add(self, message: Message) -> bool:
        """Whether there was room."""
        with self._changed:
            if len(self._messages) >= self._most:
                return False
            self._messages[message.uri] = message
            self._changed.notify()
            return True

    def drop(self, message: Message) -> None:
        """Forget a message whose caller no longer waits, and so sends it again; or that was received."""
        with self._changed:
            self._messages.pop(message.uri, None)

    def take(self, wait: float) -> list[Message]:
        """All there are, as soon as there is one; none after `wait` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages, wait)
            messages = list(self._messages.values())
            self._messages.clear()
            return messages


def _is_same(authorization: str, token: str) -> bool:
    """Whether a header holds the token; how long that takes tells nothing, not even of the token's length."""
    given = authorization.removeprefix("Bearer ").strip().encode("latin-1")  # as HTTP's headers are read
    expected = token.strip().encode("utf-8", "surrogateescape")
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(expected).digest())
