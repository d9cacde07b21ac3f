"""What one run commits: new keys are appended, known ones merged, and settled ones leave the quarantine."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from sightflow.blocks.catalog.appender import Appender
from sightflow.blocks.catalog.catalog import Catalog, MergeResult
from sightflow.blocks.catalog.data_files import KEY


class RunWriter:
    """The one committer of a run. `version`: of the table `enrichments`, with which the run was planned."""

    def __init__(self, catalog: Catalog, version: int | None) -> None:
        self.catalog = catalog
        quarantine, quarantine_version = catalog.scan_with_version("quarantine")
        self._quarantined = catalog.read(quarantine.select(KEY))
        self._new_rows = Appender(catalog, "enrichments", version)
        self._new_failures = Appender(catalog, "quarantine", quarantine_version)

    def commit(self, rows: pl.DataFrame, failed: pl.DataFrame, replaced: pl.DataFrame) -> int:
        """Commit one group: first the rows, then the failures, then take out of the quarantine what the rows have
        settled. Return how many commits were made.

        `replaced`: uri, enrichment; the keys that the catalog held when the run was planned. A group that is committed
        again, after a failure anywhere, changes nothing. Raises StoreError if the storage fails for good.
        """
        commits = _written(self._new_rows, rows, replaced, self.catalog.publish)
        commits += _written(self._new_failures, failed, self._quarantined, self.catalog.quarantine)
        settled = self._quarantined.join(rows.select(KEY), on=KEY, how="semi")
        return commits + bool(self.catalog.resolve(settled))


def _written(
    appender: Appender, rows: pl.DataFrame, known: pl.DataFrame, merge: Callable[[pl.DataFrame], MergeResult]
) -> int:
    """Write the rows of one table; return how many commits that took."""
    appended, left = appender.append(rows.join(known, on=KEY, how="anti", maintain_order="left"))
    merged = merge(pl.concat([rows.join(known, on=KEY, how="semi", maintain_order="left"), left]))
    appender.committed(merged.version)
    return (appended.version is not None) + (merged.version is not None)
