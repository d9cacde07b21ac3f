"""Which results a person is asked about, and in which order: all of it asked of the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sightflow.infra.gallery.search.index import CatalogIndex

ORDERS: Final = {
    "sample": "a drawn sample",
    "disagreements": "disagreements first",
    "low": "low scores first",
    "quarantine": "what failed",
}
_SEED_LENGTH: Final = 64
MOST: Final = 10_000

# What a row says, in a form by which two of the same capability can be told apart.
_SAID: Final = """
SELECT id, uri, capability, coalesce((SELECT string_agg(label, '|' ORDER BY label) FROM marks WHERE row = rows.id),
  text, '') AS said FROM rows WHERE cause IS NULL
"""


@dataclass(frozen=True)
class Queue:
    """An order of the results of one enrichment, or of all. `seed`: of the sample; the same one draws the same."""

    order: str = "sample"
    enrichment: str = ""
    seed: str = "1"
    open_only: bool = True
    enrichments: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, query: Mapping[str, str], enrichments: Sequence[str]) -> Queue:
        """The queue that an address speaks of, among the enrichments of a spec."""
        order, name = query.get("order", ""), query.get("enrichment", "")
        return cls(
            order if order in ORDERS else "sample",
            name if name in enrichments else "",
            query.get("seed", "1")[:_SEED_LENGTH] or "1",
            query.get("labelled", "") != "too",
            tuple(enrichments),
        )

    @property
    def query(self) -> dict[str, str]:
        """What of it is not as usual, for an address."""
        given = {"order": self.order, "enrichment": self.enrichment, "seed": self.seed}
        usual = {"order": "sample", "enrichment": "", "seed": "1"}
        return {name: value for name, value in given.items() if value != usual[name]} | (
            {} if self.open_only else {"labelled": "too"}
        )

    def items(self, index: CatalogIndex, limit: int = MOST) -> list[tuple[str, str]]:
        """The keys (uri, enrichment), in order; of the sample, of what differs and of low scores those alone."""
        names = (self.enrichment,) if self.enrichment else self.enrichments
        among = f"enrichment IN ({', '.join('?' * len(names)) or 'NULL'})"
        drawn = "hash(uri || enrichment || ?)"
        match self.order:
            case "quarantine":
                sql = f"SELECT uri, enrichment FROM rows WHERE {among} AND cause IS NOT NULL ORDER BY uri, enrichment"
                values: list[Any] = [*names]
            case "low":
                sql = f"SELECT uri, enrichment FROM rows WHERE {among} AND low >= 0 ORDER BY low, uri, enrichment"
                values = [*names]
            case "disagreements":
                sql = (
                    f"WITH said AS ({_SAID}), differing AS (SELECT uri, capability, count(DISTINCT said) AS n "
                    "FROM said GROUP BY ALL HAVING n > 1) "
                    "SELECT rows.uri, enrichment FROM rows JOIN differing USING (uri, capability) "
                    f"WHERE {among} AND cause IS NULL ORDER BY n DESC, rows.uri, enrichment"
                )
                values = [*names]
            case _:
                sql = f"SELECT uri, enrichment FROM rows WHERE {among} AND cause IS NULL ORDER BY {drawn}, uri"
                values = [*names, self.seed]
        return [(uri, name) for uri, name in index.ask(f"{sql} LIMIT {limit:d}", values)]
