"""Which objects are shown, and in which order: all of it stands in the query of an address, and becomes SQL."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import date, timedelta
from typing import Any, Final

SORTS: Final = {
    "uri": ("address", "uri"),
    "-uri": ("address, last first", "uri DESC"),
    "newest": ("newest first", "max(made_at) DESC NULLS LAST"),
    "oldest": ("oldest first", "min(made_at) NULLS LAST"),
    "score": ("lowest score first", "min(low) NULLS LAST"),
    "-score": ("highest score first", "max(high) DESC NULLS LAST"),
    "-cost": ("dearest first", "sum(cost) DESC NULLS LAST"),
}
"""The name, what it is called on a page, and the order in SQL over the rows of an object."""
_LONGEST: Final = 2000


@dataclass(frozen=True)
class Filter:
    """What a row must meet for its object to be shown; an empty condition holds for every row.

    All conditions are met by one and the same row, those on label and score by one and the same region.
    """

    q: str = ""
    enrichment: str = ""
    capability: str = ""
    label: str = ""
    system: str = ""
    cause: str = ""
    kind: str = ""
    state: str = ""
    prefix: str = ""
    run: str = ""
    least: str = ""
    most: str = ""
    since: str = ""
    until: str = ""
    sort: str = "uri"

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filter:
        """The filter that a query string speaks of; what makes no sense in it is left out."""
        given = {each.name: query.get(each.name, "").strip()[:_LONGEST] for each in fields(cls)}
        given["sort"] = given["sort"] if given["sort"] in SORTS else "uri"
        given["state"] = given["state"] if given["state"] in ("published", "quarantined") else ""
        for name in ("least", "most"):
            given[name] = "" if _number(given[name]) is None else given[name]
        for name in ("since", "until"):
            given[name] = "" if _day(given[name]) is None else given[name]
        return cls(**given)

    @property
    def query(self) -> dict[str, str]:
        """What of it is set, for an address."""
        default = Filter()
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if getattr(self, each.name) != getattr(default, each.name)
        }

    @property
    def is_empty(self) -> bool:
        """Whether it takes every object, in whatever order."""
        return replace(self, sort="uri") == Filter()

    @property
    def order(self) -> str:
        """The order of objects, in SQL."""
        return SORTS[self.sort][1]

    def condition(self) -> tuple[str, list[Any]]:
        """A condition on the table `rows` of the index, and its parameters."""
        parts: list[str] = []
        values: list[Any] = []

        def add(part: str, *given: Any) -> None:
            parts.append(part)
            values.extend(given)

        for column in ("enrichment", "capability", "system", "cause"):
            if wanted := getattr(self, column):
                add(f"{column} = ?", wanted)
        if self.kind:
            add("media_kind = ?", self.kind)
        if self.run:
            add("run_id = ?", self.run)
        if self.state:
            add("cause IS NULL" if self.state == "published" else "cause IS NOT NULL")
        if self.prefix:
            add("uri >= ? AND starts_with(uri, ?)", self.prefix, self.prefix)  # the first passes over what lies before
        if self.since:
            add("made_at >= ?", _day(self.since))
        if (until := _day(self.until)) is not None:
            add("made_at < ?", until + timedelta(days=1))
        for word in self.q.lower().split():
            add("contains(searched, ?)", word)
        if self.label or self.least or self.most:
            regions = ["label = ?"] if self.label else []
            values += [self.label] if self.label else []
            for bound, sign in ((self.least, ">="), (self.most, "<=")):
                if bound:
                    regions.append(f"score {sign} ?")
                    values.append(_number(bound))
            parts.append(f"id IN (SELECT row FROM marks WHERE {' AND '.join(regions)})")
        return " AND ".join(parts) or "true", values


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _day(text: str) -> date | None:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if 1 < day.year < 9999 else None
