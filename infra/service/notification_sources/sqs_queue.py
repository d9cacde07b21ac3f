"""Notifications of S3 through an SQS queue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from sightflow.infra.service.notification_sources.message_source import Message, SourceAway
from sightflow.schemas.failure import SightflowError, SpecError

_LONGEST_POLL = 20  # seconds, what SQS allows
_MOST_AT_ONCE = 10  # messages of one SQS request


class SqsQueue:
    """An SQS queue, reached with the keys of the environment, profile or role.

    Raises SpecError if `url` is no address of a queue or holds a password, SightflowError if there is no such queue or
    it may not be read.
    """

    def __init__(self, url: str) -> None:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import get_session

        try:
            parts = urlsplit(url)
        except ValueError:  # e.g. half an IPv6 address
            parts = urlsplit("")
        host = parts.hostname or ""
        if "@" in parts.netloc:
            raise SpecError(
                "the address of the queue holds a user name or a password; leave them out: a queue is reached with the "
                "keys of the environment, profile or role"
            )
        if parts.scheme not in ("http", "https") or not parts.path.strip("/"):
            raise SpecError(f"{url} is no address of a queue; one is https://sqs.REGION.amazonaws.com/ACCOUNT/NAME")
        region = re.fullmatch(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?", host)
        self._url, self._name = url, parts.path.rpartition("/")[2]
        try:
            self._client = get_session().create_client(
                "sqs",
                endpoint_url=None if region else f"{parts.scheme}://{parts.netloc}",
                region_name=region[1] if region else None,
                config=Config(retries={"total_max_attempts": 3, "mode": "standard"}, read_timeout=_LONGEST_POLL + 10),
            )
            answer = self._client.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])
        except (ClientError, BotoCoreError, ValueError) as error:  # ValueError: an address that is none
            raise SightflowError(f"the queue {url} cannot be read: {error}") from None
        self._visibility = int(answer.get("Attributes", {}).get("VisibilityTimeout", 0))
        self.keep_every = self._visibility / 3 or None

    def receive(self, wait: float) -> list[Message]:
        answer = self._called(
            "receive_message", MaxNumberOfMessages=_MOST_AT_ONCE, WaitTimeSeconds=round(min(wait, _LONGEST_POLL))
        )
        return [
            Message(f"sqs://{self._name}/{message['MessageId']}", message["Body"], message["ReceiptHandle"])
            for message in answer.get("Messages", [])
        ]

    def keep(self, messages: Sequence[Message]) -> None:
        self._for_each("change_message_visibility_batch", messages, VisibilityTimeout=self._visibility)

    def delete(self, messages: Sequence[Message]) -> None:
        self._for_each("delete_message_batch", messages)

    def _for_each(self, name: str, messages: Sequence[Message], **asked: Any) -> None:
        for first in range(0, len(messages), _MOST_AT_ONCE):
            some = messages[first : first + _MOST_AT_ONCE]
            entries = [{"Id": str(k), "ReceiptHandle": message.receipt, **asked} for k, message in enumerate(some)]
            # One that it could not be done for comes again, and costs nothing.
            self._called(name, Entries=entries)

    def _called(self, name: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client, name)(QueueUrl=self._url, **arguments)
        except (ClientError, BotoCoreError) as error:
            raise SourceAway(f"the queue {self._name} does not answer: {error}") from None
