"""Pub/Sub on loopback: pulls, acknowledgements and their deadlines, over gRPC with the types that Google generates.

As published: a message that was pulled is leased for the subscription's deadline, comes again under another receipt
when that is over, a receipt that is too old does nothing, a deadline of 0 gives a message back, a deadline is of 0 to
600 s, a request of receipts has 512 KiB at most, and a pull waits for a first message.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

SUBSCRIPTION = "projects/shop/subscriptions/uploads"
_MOST_BYTES = 512 * 1024
_ANSWER_SECONDS = 0.3


@dataclass
class Waiting:
    """A message that was not acknowledged; `leased_until` in seconds of the server's own clock."""

    id: str
    data: bytes
    attributes: dict[str, str]
    receipt: str = ""
    leased_until: float = 0.0
    deliveries: int = 0


@dataclass
class PubSubOnLoopback:
    """Serves one subscription. Use as a context manager, with `PUBSUB_EMULATOR_HOST` set to its `host`.

    `advance` moves its clock. `refuse`: a status for every call of the methods named. `kept`: the deadlines that were
    asked for.
    """

    ack_deadline: int = 10
    push_endpoint: str = ""
    refuse: dict[str, grpc.StatusCode] = field(default_factory=dict)
    messages: dict[str, Waiting] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._changed = threading.Condition()
        self._skipped, self._count, self._stopping = 0.0, 0, False
        self._server = grpc.server(ThreadPoolExecutor(8), handlers=[self._handlers()])
        self.host = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._server.stop(0).wait()

    def publish(self, data: bytes = b"", **attributes: str) -> str:
        with self._changed:
            self._count += 1
            message = Waiting(str(self._count), data, attributes)
            self.messages[message.id] = message
            self._changed.notify_all()
            return message.id

    def advance(self, seconds: float) -> None:
        """Let so much time pass on the server."""
        with self._changed:
            self._skipped += seconds
            self._changed.notify_all()

    def lease_of(self, message: str) -> float:
        """Seconds that a message is kept from others from now on."""
        with self._changed:
            return self.messages[message].leased_until - self._now()

    def _now(self) -> float:
        return time.monotonic() + self._skipped

    def _handlers(self) -> grpc.GenericRpcHandler:
        methods: dict[str, tuple[Callable[[Any, grpc.ServicerContext], Any], Any, Callable[[Any], bytes]]] = {
            "GetSubscription": (self._get, types.GetSubscriptionRequest.deserialize, types.Subscription.serialize),
            "Pull": (self._pull, types.PullRequest.deserialize, types.PullResponse.serialize),
            "Acknowledge": (self._acknowledge, types.AcknowledgeRequest.deserialize, _as_bytes),
            "ModifyAckDeadline": (self._modify, types.ModifyAckDeadlineRequest.deserialize, _as_bytes),
        }

        def checked(name: str, answer: Callable[[Any, grpc.ServicerContext], Any]) -> Any:
            def checked_answer(asked: Any, context: grpc.ServicerContext) -> Any:
                if status := self.refuse.get(name):
                    context.abort(status, "Authorization: Bearer ya29.a-token-that-nobody-may-see was refused")
                named = asked.subscription
                if named != SUBSCRIPTION:
                    context.abort(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={named}).")
                return answer(asked, context)

            return checked_answer

        handlers = {
            name: grpc.unary_unary_rpc_method_handler(checked(name, answer), reads, writes)
            for name, (answer, reads, writes) in methods.items()
        }
        return grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", handlers)

    def _get(self, asked: types.GetSubscriptionRequest, context: grpc.ServicerContext) -> types.Subscription:
        push = types.PushConfig(push_endpoint=self.push_endpoint)
        return types.Subscription(name=SUBSCRIPTION, ack_deadline_seconds=self.ack_deadline, push_config=push)

    def _pull(self, asked: types.PullRequest, context: grpc.ServicerContext) -> types.PullResponse:
        if asked.max_messages < 1:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "max_messages must be positive")
        with self._changed:
            # Over a little before its caller gives up, so that nothing is given to nobody.
            left = max(0.0, (context.time_remaining() or 60) - _ANSWER_SECONDS)
            self._changed.wait_for(lambda: self._stopping or self._available(), left)
            if not context.is_active() or (context.time_remaining() or 60) < _ANSWER_SECONDS / 2:
                return types.PullResponse()
            given = self._available()[: asked.max_messages]
            for message in given:
                message.deliveries += 1
                message.receipt = f"{message.id}-{message.deliveries}-{'r' * 160}"
                message.leased_until = self._now() + self.ack_deadline
            return types.PullResponse(received_messages=[_received(message) for message in given])

    def _available(self) -> list[Waiting]:
        return [message for message in self.messages.values() if message.leased_until <= self._now()]

    def _leased(self, asked: Any, context: grpc.ServicerContext) -> list[Waiting]:
        if not asked.ack_ids or type(asked).pb(asked).ByteSize() > _MOST_BYTES:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no receipts, or too many")
        now, receipts = self._now(), set(asked.ack_ids)
        return [m for m in self.messages.values() if m.receipt in receipts and m.leased_until > now]

    def _acknowledge(self, asked: types.AcknowledgeRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        with self._changed:
            for message in self._leased(asked, context):
                del self.messages[message.id]
        return empty_pb2.Empty()

    def _modify(self, asked: types.ModifyAckDeadlineRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        if not 0 <= asked.ack_deadline_seconds <= 600:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a deadline is of 0 to 600 seconds")
        with self._changed:
            for message in self._leased(asked, context):
                message.leased_until = self._now() + asked.ack_deadline_seconds
            self.kept.append(asked.ack_deadline_seconds)
            self._changed.notify_all()
        return empty_pb2.Empty()


def _received(message: Waiting) -> types.ReceivedMessage:
    held = types.PubsubMessage(data=message.data, attributes=message.attributes, message_id=message.id)
    return types.ReceivedMessage(ack_id=message.receipt, message=held, delivery_attempt=message.deliveries)


def _as_bytes(answer: empty_pb2.Empty) -> bytes:
    return answer.SerializeToString()
