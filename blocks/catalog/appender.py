"""Adding rows whose keys a table does not hold, at a cost that does not depend on how large the table is.

Delta's append checks nothing. Here it is a compare-and-swap: it is committed only as the very next version after those
that have been looked through, and what other writers have added in these is known by the keys in the files that their
commits name (https://github.com/delta-io/delta/blob/master/PROTOCOL.md, "Add File and Remove File").
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

import polars as pl

from sightflow.blocks.catalog.catalog import Catalog, MergeResult, TableName
from sightflow.blocks.catalog.commit_log import Untold, read_commit
from sightflow.blocks.catalog.data_files import KEY, DataFiles
from sightflow.blocks.catalog.table_writes import append_next

KEY_SCHEMA: Final = pl.Schema({"uri": pl.String(), "enrichment": pl.String()})
_logger = logging.getLogger(__name__)


def key_frame(keys: Iterable[tuple[str, str]] = ()) -> pl.DataFrame:
    """Keys (uri, enrichment) as a frame."""
    return pl.DataFrame(list(keys), schema=KEY_SCHEMA, orient="row")


class Appender:
    """The one writer of new keys of a run into one table.

    `version`: of the table, at which the keys were seen not to be in it; None if there was no table. A run adds a key
    once, or again with its whole group. Not for two threads at once.
    """

    def __init__(self, catalog: Catalog, name: TableName, version: int | None) -> None:
        self._catalog, self._name = catalog, name
        self._seen = -1 if version is None else version  # no key of a commit up to this one is unknown
        self._own: set[int] = set()
        self._others = key_frame()  # keys that others have added since
        self._last = key_frame()  # keys of the last append, should it be made again

    def append(self, rows: pl.DataFrame) -> tuple[MergeResult, pl.DataFrame]:
        """Add the rows whose keys are still new; return the commit, and the rows that are left to a merge.

        Left are those that another writer has added since, those of the last append if it is made again, and all if
        what others have added cannot be told any more. Raises StoreError if the commit fails for good.
        """
        result, new = MergeResult(None), rows.clear()

        def append() -> MergeResult:
            nonlocal new
            files = self._catalog.files(self._name)
            try:
                self._look_through(files)
            except Untold as error:
                _logger.info("%s: rows are merged: %s", self._catalog.table_uri(self._name), error)
                return MergeResult(None)
            new = rows.join(pl.concat([self._others, self._last]), on=KEY, how="anti", maintain_order="left")
            if new.is_empty():
                return MergeResult(None)
            version = append_next(files.table, new.sort(KEY))
            return MergeResult(version, inserted=new.height)

        if not rows.is_empty():
            result = self._catalog.commit(append, int(rows.estimated_size()))
        if result.version is None:
            return result, rows
        self._seen = result.version
        self._last = new.select(KEY)
        return result, rows.join(self._last, on=KEY, how="anti", maintain_order="left")

    def committed(self, version: int | None) -> None:
        """A commit of our own: its keys are not another writer's."""
        if version is not None:
            self._own.add(version)

    def _look_through(self, files: DataFiles) -> None:
        """Take the keys of what others have committed up to the table's version. Raises Untold."""
        for version in range(self._seen + 1, files.version + 1):
            if version not in self._own:
                self._others = pl.concat([self._others, *read_commit(files, version).new_keys(files)])
            self._own.discard(version)
            self._seen = version
