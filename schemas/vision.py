"""What goes into a vision model and what comes out, one reply a request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sightflow.schemas.enrichment import Enrichment, Result
from sightflow.schemas.failure import Failure
from sightflow.schemas.media import Media, MediaFacts
from sightflow.schemas.run.plan import ResolvedEnrichment, ShardItem
from sightflow.schemas.run.timing import Span


@dataclass(frozen=True)
class ModelRef:
    """Which weights or hosted model: an id, pinned, with what one may do with it."""

    id: str
    revision: str | None = None
    licence: str = "unread"
    commercial_use: Literal["yes", "no", "unread"] = "unread"

    @property
    def pinned(self) -> str:
        """`ID@REVISION` as it is configured; nothing after the @ if no revision is."""
        return f"{self.id}@{self.revision or ''}"


@dataclass(frozen=True)
class Usage:
    """What one reply cost. Tokens are counted by the provider (hosted) or by the tokenizer (local)."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cost_usd + other.cost_usd,
        )


@dataclass(frozen=True)
class VisionRequest:
    """One enrichment asked of one media object."""

    uri: str
    enrichment: Enrichment
    media: Media


@dataclass(frozen=True)
class VisionReply:
    """The answer to one request: a typed result or a typed failure, never both.

    `uri` and `enrichment` (its name) say whose answer this is. `system` and `model_id` say who gave it:
    for hosted models the id that the provider says it served. `route` lists the systems that were
    tried before and failed; `usage` adds up what all of them cost. `raw_reply`: the text of every prompt's reply, as it
    came; None if there was none. `model_revision`: of the weights.
    """

    uri: str
    enrichment: str
    outcome: Result | Failure
    system: str
    model_id: str
    raw_reply: str | None = None
    usage: Usage = field(default_factory=Usage)
    route: tuple[str, ...] = ()
    model_revision: str | None = None

    @property
    def failure(self) -> Failure | None:
        return self.outcome if isinstance(self.outcome, Failure) else None


@dataclass(frozen=True)
class Answer:
    """What came of one enrichment of one object; `facts` is None if the media never became pixels."""

    item: ShardItem
    resolved: ResolvedEnrichment
    facts: MediaFacts | None
    reply: VisionReply


class Replies:
    """The answers of a shard, in the order of its items, and when each stage was at work.

    `error`: what ended the shard before all of it was answered, if anything has; what has no answer is asked anew by
    the next run.

    A plain class: Prefect looks into dataclasses and mappings that tasks exchange, and has no business here.
    """

    def __init__(self, answers: list[Answer], spans: list[Span], error: Exception | None = None) -> None:
        self.answers = answers
        self.spans = spans
        self.error = error
