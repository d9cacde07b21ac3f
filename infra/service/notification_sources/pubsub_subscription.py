"""Notifications of Google Cloud Storage through a pull subscription of Pub/Sub."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

from sightflow.blocks.extras import require
from sightflow.infra.service.notification_sources.message_source import Message, SourceAway
from sightflow.schemas.failure import SightflowError, SpecError

SUBSCRIPTION = re.compile(r"projects/[a-z0-9.:-]{1,100}/subscriptions/[A-Za-z][\w.~+%-]{2,254}", re.ASCII)
"""The full name of a subscription, as Google writes it."""
_MOST_AT_ONCE = 100  # messages of one pull
_MOST_RECEIPTS = 1000  # of one request, which may have 512 KiB
_REQUEST_SECONDS = 30.0
_SHORTEST_PULL = 1.0  # seconds
_LEAST_DEADLINE = 10  # seconds, that a subscription may have


class PubSubSubscription:
    """A pull subscription, `projects/P/subscriptions/S`, reached with Google's application default credentials.

    With PUBSUB_EMULATOR_HOST set, that emulator's, without credentials.

    Raises SpecError if `name` is none, MissingExtra, and SightflowError if there is no such subscription, or none that
    can be pulled from.
    """

    def __init__(self, name: str) -> None:
        if not SUBSCRIPTION.fullmatch(name):
            raise SpecError(f"{name} is no subscription of Pub/Sub; one is projects/PROJECT/subscriptions/NAME")
        require("google.cloud.pubsub_v1", "google", "a subscription of Pub/Sub")
        from google.api_core.exceptions import GoogleAPIError, PermissionDenied
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.pubsub_v1 import SubscriberClient

        self._subscription, self._name = name, name.rpartition("/")[2]
        self._ack_deadline = _LEAST_DEADLINE
        self.keep_every: float | None = self._ack_deadline / 3
        try:
            self._client = SubscriberClient()
            found = self._client.get_subscription(subscription=name, timeout=_REQUEST_SECONDS)
        except PermissionDenied:
            return  # the role that pulls, roles/pubsub.subscriber, need not look at the subscription itself
        except (GoogleAPIError, GoogleAuthError) as error:
            raise SightflowError(
                f"the subscription {name} cannot be read: {_said(error)}; check its name, and the credentials "
                "(GOOGLE_APPLICATION_CREDENTIALS, or the account of this machine) and their role pubsub.subscriber"
            ) from None
        if found.push_config.push_endpoint or found.bigquery_config.table or found.cloud_storage_config.bucket:
            raise SightflowError(f"the subscription {name} delivers elsewhere; make one whose delivery type is pull")
        self._ack_deadline = found.ack_deadline_seconds or _LEAST_DEADLINE
        self.keep_every = self._ack_deadline / 3

    def receive(self, wait: float) -> list[Message]:
        from google.api_core.exceptions import DeadlineExceeded

        asked = {"subscription": self._subscription, "max_messages": _MOST_AT_ONCE}
        # A pull is answered with the first message that comes, or cut off here.
        try:
            answer = self._called(self._client.pull, max(wait, _SHORTEST_PULL), asked, passing=DeadlineExceeded)
        except DeadlineExceeded:
            return []
        return [
            Message(f"pubsub://{self._name}/{received.message.message_id}", _as_json(received), received.ack_id)
            for received in answer.received_messages
        ]

    def keep(self, messages: Sequence[Message]) -> None:
        self._for_each(self._client.modify_ack_deadline, messages, ack_deadline_seconds=self._ack_deadline)

    def delete(self, messages: Sequence[Message]) -> None:
        self._for_each(self._client.acknowledge, messages)

    def _for_each(self, call: Callable[..., Any], messages: Sequence[Message], **asked: Any) -> None:
        receipts = [message.receipt for message in messages]
        for first in range(0, len(receipts), _MOST_RECEIPTS):
            some = receipts[first : first + _MOST_RECEIPTS]
            # A receipt that is too old is passed over, and its message comes again.
            self._called(call, _REQUEST_SECONDS, {"subscription": self._subscription, "ack_ids": some, **asked})

    def _called(
        self, call: Callable[..., Any], seconds: float, asked: dict[str, Any], passing: type[Exception] | None = None
    ) -> Any:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError

        try:
            # No retry within: the bridge asks again, and says so.
            return call(request=asked, timeout=seconds, retry=None)
        except (GoogleAPIError, GoogleAuthError) as error:
            if passing and isinstance(error, passing):
                raise
            raise SourceAway(f"the subscription {self._name} does not answer: {_said(error)}") from None


def _as_json(received: Any) -> str:
    """A message as Google's own JSON has it (`PubsubMessage`), its data in base64."""
    message = received.message
    return json.dumps({"attributes": dict(message.attributes), "data": b64encode(message.data).decode()})


def _said(error: Exception) -> str:
    text = str(getattr(error, "message", "") or error)
    return f"{type(error).__name__}: {text[:300]}"
