"""Upkeep of the catalog's tables: few files instead of many, a short way to open them, nothing kept for ever.

Nothing here changes a row. Each group of files is joined by a commit of its own, as a whole or not at all; what is left
behind by a killed one are files that no version names, and the vacuum takes those away when they are old enough. Files
are sorted by the key: who looks for one reads the few files within whose bounds it lies. (Delta's Z-order would not do:
it looks at sixteen bytes of a URI, which most have in common, and writes the whole table anew each time.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sightflow.blocks.catalog.catalog import TABLES, Catalog, TableName, retention_properties
from sightflow.blocks.catalog.clustering import Group, groups_to_join, joined, small_files
from sightflow.blocks.catalog.data_files import KEY, DataFile
from sightflow.schemas.policy import Upkeep
from sightflow.schemas.run.report import MaintenanceResult

_ORDER: Mapping[TableName, Sequence[str]] = dict.fromkeys(TABLES, KEY) | {"runs": ["run_id"]}
_GROUPS_OF_A_RUN = 4  # a run that is due joins no more at once, so that its own commits do not wait for long


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
    if catalog.table(name) is None:
        return None
    with catalog.writing():
        files = catalog.files(name)
        table, before = files.table, files.listed()
        if not (even_if_not_due or _is_due(before, policy)):
            return None
        promised = _promised_days(table)
        if policy.keep_days != promised:
            table.alter.set_table_properties(retention_properties(policy.keep_days))
        groups = groups_to_join(before)
        overtaken = [
            not _join(catalog, name, group) for group in groups[: None if even_if_not_due else _GROUPS_OF_A_RUN]
        ]
        vacuumed = _checkpoint_and_vacuum(catalog, name, policy, full=promised is not None)
        after = len(catalog.files(name).listed())
    skipped = "another writer came first" if overtaken and all(overtaken) else ""
    return MaintenanceResult(
        table=name, files_before=len(before), files_after=after, vacuumed=vacuumed, skipped=skipped
    )


def _join(catalog: Catalog, name: TableName, group: Group) -> bool:
    """Join some files; whether it was done, since another writer may have changed one of them first."""
    files = catalog.files(name)
    if not {file.path for file in group} <= {file.path for file in files.listed()}:
        return False
    rewrite = joined(files, group, _ORDER[name])

    def commit() -> bool:
        now = catalog.files(name)
        if not rewrite.still_stands(now):
            return False
        rewrite.commit(now)
        return True

    return catalog.commit(commit)


def _checkpoint_and_vacuum(catalog: Catalog, name: TableName, policy: Upkeep, full: bool) -> int:
    """Shorten the way to open a table, and take away what no kept version needs; return how many files went.

    The vacuum spares what was replaced less than `keep_days` ago, as long as the log says when that was. So the table
    is made to say it for so long, and what it did not say before is spared altogether. The checkpoint goes first: it
    forgets the files that are due, and a vacuum counts those that it knows as taken away again and again.
    """
    catalog.table(name).create_checkpoint()
    return len(catalog.table(name).vacuum(retention_hours=policy.keep_days * 24, dry_run=False, full=full))


def _promised_days(table: Any) -> int | None:
    """How long the table keeps what it has replaced, by its own word; None if it does not say so as we do."""
    configuration = table.metadata().configuration
    numbers = re.findall(r"\d+", " ".join(configuration.get(name, "") for name in retention_properties(0)))
    days = int(numbers[0]) if numbers else 0
    return days if retention_properties(days).items() <= configuration.items() else None


def _is_due(files: Sequence[DataFile], policy: Upkeep) -> bool:
    most = max(map(len, small_files(files)), default=0)
    return policy.compact_files is not None and most >= policy.compact_files
