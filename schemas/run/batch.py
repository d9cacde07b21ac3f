"""A batch: requests that a vendor answers in hours at a lower price, and what is kept of each until then."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from sightflow.schemas.capability import MediaKind
from sightflow.schemas.media import MediaFacts
from sightflow.schemas.tables.batches import BatchState


@dataclass(frozen=True)
class BatchedRequest:
    """One request of a batch: an enrichment of an image, or of one window of a video; and what of the media a reply is
    read and checked with.

    `custom_id`: carried by the result. `width`, `height`: pixels of the upright original; `seen_width`, `seen_height`:
    of what was decoded. `frames`, `seconds`: of a video's window, indices and times; `window_start`, `window_end`: the
    seconds that it stands for. `part` of `parts`: the place among the windows. `replaced`: whether the key had a row.
    `most_usd`: what it may cost at most, US dollars.
    """

    custom_id: str
    uri: str
    enrichment: str
    object_version: str
    recipe: str
    bytes: int
    replaced: bool
    media_kind: str
    width: int
    height: int
    sha256: str
    duration: float | None
    frame_rate: float | None
    seen_width: int
    seen_height: int
    frames: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    window_start: float | None = None
    window_end: float | None = None
    overview: bool = False
    part: int = 0
    parts: int = 1
    most_usd: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """(uri, enrichment): of the row that its result becomes, or a part of."""
        return self.uri, self.enrichment

    @property
    def facts(self) -> MediaFacts:
        """What a row keeps of the media."""
        kind = MediaKind(self.media_kind)
        return MediaFacts(kind, self.width, self.height, self.sha256, self.duration, self.frame_rate)

    @property
    def fields(self) -> dict[str, Any]:
        """Itself as an entry of the column `items`."""
        return asdict(self)


@dataclass(frozen=True)
class Batch:
    """A batch as it stands: the columns of its newest row but for what it holds.

    `step`: how many steps it has taken. `reached_at`: when it took this one. `owner`: the process that did.
    `vendor_batch`, `input_file`, `result_files`: their ids at the vendor.
    """

    batch_id: str
    step: int
    state: BatchState
    reached_at: datetime
    recorded_at: datetime
    owner: str
    run_id: str
    system: str
    model_id: str
    vendor: str
    requests: int
    vendor_batch: str | None = None
    input_file: str | None = None
    result_files: tuple[str, ...] = ()
    message: str | None = None


class BatchOutcome(BaseModel):
    """What `collect` did about one batch. All numbers but `requests` count rows, or results that are none's."""

    batch_id: str
    system: str
    vendor: str
    state: BatchState
    requests: int
    published: int = 0
    quarantined: int = 0
    repaired: int = Field(default=0, description="replies that could not be read, asked once more directly")
    not_done: int = Field(default=0, description="without a result; asked again by the next run")
    known: int = Field(default=0, description="published before, by a process that ended before it could say so")
    overtaken: int = Field(default=0, description="dropped: the catalog has a newer row of another version or recipe")
    strangers: int = Field(default=0, description="results of no request of the batch, dropped")
    doubled: int = Field(default=0, description="results that came a second time, dropped")
    unreadable: int = Field(default=0, description="lines of results that cannot be read, dropped")
    note: str = ""

    @property
    def summary(self) -> str:
        """As on the screen, e.g. `1a2b3c4d gpt-4o closed: 480 published, 2 quarantined, 18 not done`."""
        told = ("published", "quarantined", "repaired", "not_done", "known", "overtaken")
        odd = ("strangers", "doubled", "unreadable")
        parts = [f"{getattr(self, name):,} {name.replace('_', ' ')}" for name in told + odd if getattr(self, name)]
        said = "; ".join(filter(None, [", ".join(parts), self.note]))
        return f"{self.batch_id[:8]} {self.system} {self.state}: {said or f'{self.requests:,} requests'}"
