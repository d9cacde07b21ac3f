"""Upkeep of the catalog's tables: few files instead of many, a short way to open them, nothing kept for ever.

Nothing here changes a row. Delta-rs commits a compaction as a whole or not at all; what a killed one leaves behind are
files that no version names, and the vacuum takes those away when they are old enough. Merges skip files by the first
and last URI of each, and a compaction joins neighbours in the order of their commits, so that files which follow one
another in the key stay so. (Z-order would not do it: it looks at sixteen bytes of a URI, which most have in common, and
writes the whole table anew each time.)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import polars as pl

from sightflow.blocks.catalog.catalog import TABLES, Catalog, TableName, retention_properties
from sightflow.schemas.run.report import MaintenanceResult
from sightflow.schemas.spec import Upkeep

# A compaction leaves files of about this size alone, and holds a few of its row groups in memory.
_FILE_BYTES = 128 * 2**20
_SMALL_BYTES = _FILE_BYTES // 4


def maintain(catalog: Catalog, policy: Upkeep, even_if_not_due: bool = False) -> list[MaintenanceResult]:
    """Look after each table that is due, or that has anything to do at all; return what was done, table by table.

    Due is a table with `policy.compact_files` small files in one partition. Raises StoreError if
    the storage fails; another writer that comes first costs no more than this once.
    """
    results = [_maintain_table(catalog, name, policy, even_if_not_due) for name in TABLES]
    return [result for result in results if result is not None]


def retention_days(catalog: Catalog) -> int:
    """How many days back the catalog reaches by its own word: what it was last looked after with."""
    table = catalog.table("enrichments")
    return (None if table is None else _promised_days(table)) or Upkeep().keep_days


def _maintain_table(
    catalog: Catalog, name: TableName, policy: Upkeep, even_if_not_due: bool
) -> MaintenanceResult | None:
    from deltalake.exceptions import CommitFailedError

    table = catalog.table(name)
    if table is None or not (even_if_not_due or _is_due(table, policy)):
        return None
    with catalog.writing():
        before = _file_count(table)
        try:
            vacuumed = _compact_and_vacuum(table, policy, partial(catalog.table, name))
        except CommitFailedError:
            # It merged or compacted the same files; these are looked after when they are due again.
            return MaintenanceResult(
                table=name, files_before=before, files_after=before, skipped="another writer came first"
            )
        after = _file_count(table)
    return MaintenanceResult(table=name, files_before=before, files_after=after, vacuumed=vacuumed)


def _compact_and_vacuum(table: Any, policy: Upkeep, reopen: Callable[[], Any]) -> int:
    """Compact, checkpoint and vacuum one table; return how many files the vacuum took away.

    The vacuum spares what was replaced less than `keep_days` ago, as long as the log says when that was. So the table
    is made to say it for so long, and what it did not say before is spared altogether. The checkpoint goes first: it
    forgets the files that are due, and a vacuum counts those that it knows as taken away again and again.
    """
    promised = _promised_days(table)
    if policy.keep_days != promised:
        table.alter.set_table_properties(retention_properties(policy.keep_days))
    table.optimize.compact(target_size=_FILE_BYTES, max_concurrent_tasks=1)
    table.create_checkpoint()
    hours = policy.keep_days * 24
    return len(reopen().vacuum(retention_hours=hours, dry_run=False, full=promised is not None))


def _promised_days(table: Any) -> int | None:
    """How long the table keeps what it has replaced, by its own word; None if it does not say so as we do."""
    configuration = table.metadata().configuration
    numbers = re.findall(r"\d+", " ".join(configuration.get(name, "") for name in retention_properties(0)))
    days = int(numbers[0]) if numbers else 0
    return days if retention_properties(days).items() <= configuration.items() else None


def _is_due(table: Any, policy: Upkeep) -> bool:
    if policy.compact_files is None:
        return False
    files = pl.DataFrame(table.get_add_actions()).select("path", "size_bytes").iter_rows()
    partitions = Counter(path.rpartition("/")[0] for path, size in files if size < _SMALL_BYTES)
    return max(partitions.values(), default=0) >= policy.compact_files


def _file_count(table: Any) -> int:
    return len(table.file_uris())
