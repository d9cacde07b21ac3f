"""What every source of storage notifications can do, as one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sightflow.schemas.failure import SightflowError


class SourceAway(SightflowError):
    """The source does not answer now; what it holds stays there."""


@dataclass(frozen=True)
class Message:
    """A notification. `uri`: its own name, for the quarantine; `receipt`: what its source knows it by."""

    uri: str
    body: str
    receipt: Any = field(repr=False, compare=False)


class MessageSource(Protocol):
    """Gives messages, and keeps them until it is told that they are durable elsewhere.

    What was received is given to somebody else after a while, unless `keep` is called in time. `keep` is called in a
    thread of its own.
    """

    keep_every: float | None
    """Seconds from one call of `keep` to the next; None if messages need none."""

    def receive(self, wait: float) -> list[Message]:
        """Some messages, none if none came within `wait` seconds. Raises SourceAway."""

    def keep(self, messages: Sequence[Message]) -> None:
        """Have messages that are not yet durable kept from others for longer. Raises SourceAway; one that comes again
        for that costs nothing.
        """

    def delete(self, messages: Sequence[Message]) -> None:
        """Forget messages, which are durable elsewhere. Raises SourceAway, and they come again."""
