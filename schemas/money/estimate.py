"""What a run is expected to take, in tokens, money and time, and what it was charged: of each enrichment."""

from __future__ import annotations

from datetime import date

from pydantic import BaseModel, Field

from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Delivery


class Estimate(BaseModel):
    """What is expected of one enrichment of a plan. None, where nobody knows."""

    items: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    price: float = Field(default=0.0, description="US dollars")
    seconds: float | None = None
    known_by: str = Field(default="", description="in words: what was measured, or by which rules, of which sizes")


class Bill(BaseModel):
    """What one enrichment was charged in one run, by the system that answered it first.

    `items`: those that were answered or failed; `rows`: those that were published, to which the tokens belong.
    `mean_bytes`: of an object, as listed. `seconds`: its part of the time from the first shard to the last commit;
    `busy_seconds`: its part of the time that models were at work, in all processes. `gpu_usd`: what these cost where
    the policy says what an hour does. `delivery`, `price_share`: how it was asked, and for which part of the price of
    direct requests; a bill by batch tells no time.
    """

    enrichment: str
    media_kind: MediaKind
    system: str
    model_id: str = ""
    recipe: str = ""
    items: int = 0
    rows: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    estimated_usd: float = 0.0
    mean_bytes: float = 0.0
    seconds: float = 0.0
    busy_seconds: float = 0.0
    gpu_usd: float = 0.0
    delivery: Delivery = "direct"
    price_share: float = Field(default=1.0, gt=0)


class MeasuredRates(BaseModel):
    """What an item of an enrichment took in earlier runs: means over `rows` rows, and over `items` with what failed.

    `cost_usd`: of direct requests. `seconds`: None if all were asked by batch. `until`: the day of the last of these
    runs.
    """

    rows: int
    items: int
    input_tokens: float
    output_tokens: float
    cost_usd: float
    seconds: float | None
    busy_seconds: float
    mean_bytes: float
    until: date

    def is_of_such_media(self, mean_bytes: float) -> bool:
        """Whether objects of so many bytes are about as large as those that were measured."""
        return bool(self.mean_bytes) and abs(mean_bytes / self.mean_bytes - 1) <= 0.25
