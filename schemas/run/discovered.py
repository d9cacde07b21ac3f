"""What was found in a source, and what a listing had to leave out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl
from pydantic import BaseModel

from sightflow.schemas.failure import Failure
from sightflow.schemas.run.timing import Span

_NAMED = 3  # places that are told by name
_MOST_PLACES = 100_000


class Skipped(BaseModel):
    """What a listing left out for one reason: how many places, and the first of them by name."""

    reason: str
    count: int
    places: tuple[str, ...]

    @property
    def summary(self) -> str:
        """As on the screen, e.g. `2 left out, it cannot be listed: permission denied (file:///a, file:///b)`."""
        more = ", ..." if self.count > len(self.places) else ""
        return f"{self.count:,} left out, {self.reason} ({', '.join(self.places)}{more})"


class Skips:
    """Gathers what a listing leaves out, while it goes on.

    `unlisted`: the URIs of these objects and folders, of which nothing is known. `complete`: whether these are all.
    """

    def __init__(self) -> None:
        self.unlisted: set[str] = set()
        self.complete = True
        self._by_reason: dict[str, tuple[int, list[str]]] = {}

    def add(self, place: str, reason: str, located: bool = True) -> None:
        """Leave out a place; if it is not `located`, its name says nothing of which objects are missing."""
        count, named = self._by_reason.get(reason, (0, []))
        self._by_reason[reason] = (count + 1, named if len(named) == _NAMED else [*named, place])
        if located and len(self.unlisted) < _MOST_PLACES:
            self.unlisted.add(place)
        else:
            self.complete = False

    @property
    def summary(self) -> tuple[Skipped, ...]:
        return tuple(
            Skipped(reason=reason, count=count, places=tuple(named))
            for reason, (count, named) in self._by_reason.items()
        )


@dataclass(frozen=True, eq=False)
class Discovered:
    """The `inventory` of a source, and what is not in it. `spans`: when it was listed.

    `failed`: objects by URI that were named and could not be looked up. `skips`: what could not be listed. No object
    that is missing for one of these reasons counts as gone; if not `skips.complete`, none does.
    """

    inventory: pl.DataFrame
    failed: Mapping[str, Failure] = field(default_factory=dict)
    skips: Skips = field(default_factory=Skips)
    spans: tuple[Span, ...] = ()
