"""A few of a run's objects and of what failed, kept for a person who looks at the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

MOST_EXAMPLES = 12
MOST_FAILED = 20

Row = Mapping[str, Any]


@dataclass
class Examples:
    """The first objects that a run published, at most a dozen, with their rows, and the first items that failed."""

    published: dict[str, list[Row]] = field(default_factory=dict)
    failed: list[Row] = field(default_factory=list)

    def add(self, rows: pl.DataFrame, failed: pl.DataFrame) -> None:
        """Take what a commit has published and put into quarantine."""
        room = MOST_EXAMPLES - len(self.published)
        chosen = rows["uri"].unique(maintain_order=True).head(room)
        for row in rows.filter(pl.col("uri").is_in(chosen.implode())).iter_rows(named=True) if room else ():
            self.published.setdefault(row["uri"], []).append(row)
        room = MOST_FAILED - len(self.failed)
        self.failed += failed.head(room).iter_rows(named=True) if room else ()


def said(row: Row) -> str:
    """What a row says, in short: its text, its fields, or how many of which labels it has found."""
    if row["text"] is not None or row["extracted"] is not None:
        return str(row["text"] or row["extracted"])
    counts = Counter(thing["label"] for thing in row["regions"] or row["tracks"] or ())
    return ", ".join(f"{count} x {label}" if count > 1 else label for label, count in counts.items()) or "nothing"
