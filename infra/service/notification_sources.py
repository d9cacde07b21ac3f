"""Where storage notifications come from: an SQS queue, or a webhook that MinIO calls."""

from __future__ import annotations

import hmac
import os
import queue
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

from sightflow.schemas.failure import SightflowError

WEBHOOK_TOKEN = "SIGHTFLOW_WEBHOOK_TOKEN"  # noqa: S105 - the name of a variable
_LONGEST_POLL = 20  # seconds, what SQS allows
_MOST_AT_ONCE = 10  # messages of one SQS request
_LARGEST_BODY = 2**20  # four times what SQS takes
_PATIENCE = 60.0  # seconds that a webhook's caller is kept waiting


class SourceAway(SightflowError):
    """The source does not answer now; what it holds stays there."""


@dataclass(frozen=True)
class Message:
    """A notification. `uri`: its own name, for the quarantine; `receipt`: what its source knows it by."""

    uri: str
    body: str
    receipt: Any = field(repr=False, compare=False)


class MessageSource(Protocol):
    """Gives messages, and keeps them until it is told that they are durable elsewhere."""

    def receive(self, wait: float) -> list[Message]:
        """Some messages, none if none came within `wait` seconds. Raises SourceAway."""

    def delete(self, messages: Sequence[Message]) -> None:
        """Forget messages, which are durable elsewhere. Raises SourceAway, and they come again."""


class SqsQueue:
    """An SQS queue, reached with the keys of the environment, profile or role.

    Raises SightflowError if there is no such queue or it may not be read.
    """

    def __init__(self, url: str) -> None:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import get_session

        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not parts.path.strip("/"):
            raise SightflowError(
                f"{url} is no address of a queue; one is https://sqs.REGION.amazonaws.com/ACCOUNT/NAME"
            )
        region = re.fullmatch(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?", host)
        self._url, self._name = url, parts.path.rpartition("/")[2]
        self._client = get_session().create_client(
            "sqs",
            endpoint_url=None if region else f"{parts.scheme}://{parts.netloc}",
            region_name=region[1] if region else None,
            config=Config(retries={"total_max_attempts": 3, "mode": "standard"}, read_timeout=_LONGEST_POLL + 10),
        )
        try:
            self._client.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])
        except (ClientError, BotoCoreError) as error:
            raise SightflowError(f"the queue {url} cannot be read: {error}") from None

    def receive(self, wait: float) -> list[Message]:
        answer = self._called(
            "receive_message", MaxNumberOfMessages=_MOST_AT_ONCE, WaitTimeSeconds=round(min(wait, _LONGEST_POLL))
        )
        return [
            Message(f"sqs://{self._name}/{message['MessageId']}", message["Body"], message["ReceiptHandle"])
            for message in answer.get("Messages", [])
        ]

    def delete(self, messages: Sequence[Message]) -> None:
        for first in range(0, len(messages), _MOST_AT_ONCE):
            some = messages[first : first + _MOST_AT_ONCE]
            entries = [{"Id": str(k), "ReceiptHandle": message.receipt} for k, message in enumerate(some)]
            # One that could not be deleted comes again, and costs nothing.
            self._called("delete_message_batch", Entries=entries)

    def _called(self, name: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client, name)(QueueUrl=self._url, **arguments)
        except (ClientError, BotoCoreError) as error:
            raise SourceAway(f"the queue {self._name} does not answer: {error}") from None


class Webhook:
    """An HTTP endpoint that takes a notification a POST, and answers 200 when it is durable, else 503.

    MinIO keeps what was not answered with 200 in its own queue directory and sends it again. If SIGHTFLOW_WEBHOOK_TOKEN
    is set, the caller must send it as `Authorization: Bearer ...`, which is MinIO's `auth_token`.
    """

    def __init__(self, host: str, port: int) -> None:
        self._received: queue.Queue[Message] = queue.Queue()
        token = os.environ.get(WEBHOOK_TOKEN, "")
        received = self._received

        class Handler(BaseHTTPRequestHandler):
            timeout = 30

            def do_POST(self) -> None:
                given = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
                length = self.headers.get("Content-Length", "")
                if token and not hmac.compare_digest(given.encode(), token.encode()):
                    self._answer(401)
                elif not length.isdigit() or int(length) > _LARGEST_BODY:
                    self._answer(413)
                else:
                    body = self.rfile.read(int(length)).decode("utf-8", "backslashreplace")
                    durable = threading.Event()
                    received.put(Message(f"webhook://{uuid4().hex}", body, durable))
                    self._answer(200 if durable.wait(_PATIENCE) else 503)

            def do_HEAD(self) -> None:
                self._answer(200)  # by which MinIO asks whether somebody is there

            def _answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise SightflowError(f"the webhook cannot listen at {host}:{port}: {error.strerror}") from None
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="webhook", daemon=True).start()

    @property
    def address(self) -> str:
        """What MinIO's `endpoint` should be."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/"

    def receive(self, wait: float) -> list[Message]:
        messages: list[Message] = []
        with suppress(queue.Empty):
            messages.append(self._received.get(timeout=max(wait, 0.01)))
            while True:
                messages.append(self._received.get_nowait())
        return messages

    def delete(self, messages: Sequence[Message]) -> None:
        for message in messages:
            message.receipt.set()
