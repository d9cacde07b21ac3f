"""What a model says of what it will cost, in money, tokens and time, before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from sightflow.blocks.models.image_sizes import Size
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.money import calendar_day
from sightflow.schemas.money.rates import FREE, Rates
from sightflow.schemas.vision import Usage

TYPICAL_SIZE, TYPICAL_SECONDS = (1920, 1080), 60.0
"""Of an image, in pixels, and of a video, where nobody knows better."""


class Expenses:
    """The part of a model that is about money; as it stands here, of one that computes on this machine for nothing."""

    def price_per_item(self, enrichment: Enrichment, media_kind: MediaKind) -> float:
        """The expected price of one item in US dollars; local models cost nothing here."""
        return 0.0

    @property
    def price_is_known(self) -> bool:
        """Whether `price_per_item` is what will be paid."""
        return True

    @property
    def rates(self) -> Rates | None:
        """What tokens cost from today on; None where that is not known."""
        return self.rates_on(calendar_day.today())

    def rates_on(self, day: date) -> Rates | None:
        """What tokens cost from a day on; None where that is not known. Of a local model they cost nothing."""
        return FREE

    def request_usages(
        self,
        enrichment: Enrichment,
        media_kind: MediaKind,
        size: Size,
        frames: int = 1,
        seconds: float = 0.0,
        has_sound: bool = True,
    ) -> list[Usage]:
        """The tokens that each request is expected to have by which an enrichment of one image of this size, or of one
        window of a video, is asked; empty where nobody knows.

        `size`: pixels of the upright original. `frames`, `seconds`, `has_sound`: of the window.
        """
        return []

    def expected_seconds(self, requests: Sequence[Usage], items: int) -> float | None:
        """About how long so many items take, each of these requests; None where only a run can tell."""
        return None
