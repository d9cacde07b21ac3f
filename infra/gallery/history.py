"""How the results of one object came to be: what each version of the catalog held of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import polars as pl

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.failure import StoreError

MOST_VERSIONS: Final = 30
_SHOWN: Final = ("enrichment", "fingerprint", "system", "model_id", "run_id", "inferred_at", "text", "cost_usd")


def history_of(catalog: Catalog, uri: str) -> list[dict[str, Any]]:
    """The versions, newest first, in which a row of an object came, changed or went; of the last 30 at most.

    Each has `version`, `at`, `changes`: the rows as they then were, with `change` added, changed or removed. What a
    version cannot tell, since its files are gone, ends the list. Raises StoreError if the catalog cannot be read.
    """
    table = catalog.table("enrichments")
    commits = sorted(table.history(MOST_VERSIONS), key=lambda commit: commit["version"]) if table is not None else []
    before: dict[str, dict[str, Any]] | None = None
    found: list[dict[str, Any]] = []
    for commit in commits:
        version = int(commit["version"])
        try:
            rows = catalog.read(
                catalog.scan("enrichments", version).filter(pl.col("uri") == uri).select(_SHOWN).limit(200)
            )
        except StoreError:
            before, found = None, []
            continue
        after = {row["enrichment"]: row for row in rows.sort("enrichment").to_dicts()}
        if changes := _changes(before, after, is_first=before is None and version > 0):
            at = datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)
            found.append({"version": version, "at": at, "changes": changes})
        before = after
    return found[::-1]


def _changes(
    before: dict[str, dict[str, Any]] | None, after: dict[str, dict[str, Any]], is_first: bool
) -> list[dict[str, Any]]:
    """What differs; of the first version that is still known it is not told what was new in it."""
    earlier = before or {}
    changes = []
    for name, row in after.items():
        if name not in earlier:
            changes.append({**row, "change": "there already" if is_first else "added"})
        elif earlier[name]["fingerprint"] != row["fingerprint"]:
            changes.append({**row, "change": "changed"})
    return changes + [{**row, "change": "removed"} for name, row in earlier.items() if name not in after]
