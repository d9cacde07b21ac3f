"""What other writers have committed since a version, known from the entries of the log and the files that they name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import polars as pl

from sightflow.blocks.catalog.data_files import DataFiles

COUNT_PREFIX = "sightflow."
"""Of the names by which a commit of ours notes how many rows it inserted, updated, deleted."""


class Untold(Exception):
    """What another commit has changed cannot be told."""


@dataclass(frozen=True)
class Commit:
    """One commit. `added` and `removed`: paths of files; `with_rows`: those of `added` that are not only rearranged.

    `without_new_keys`: a commit of ours that says so. `other`: it changes what the table is.
    """

    version: int
    added: frozenset[str]
    with_rows: tuple[str, ...]
    removed: frozenset[str]
    without_new_keys: bool
    other: bool

    def new_keys(self, files: DataFiles) -> Iterator[pl.DataFrame]:
        """The keys in the files that may hold new ones, a frame a file. Raises Untold if one cannot be read."""
        for path in () if self.without_new_keys else self.with_rows:
            try:
                yield files.keys_in(path)
            except (OSError, pl.exceptions.PolarsError) as error:
                raise Untold(f"{path} cannot be read: {type(error).__name__}") from None


def read_commit(files: DataFiles, version: int) -> Commit:
    """What a version has changed. Raises Untold if its entry is gone or none, or names files outside the table."""
    text = files.log_entry(version)
    if text is None:
        raise Untold(f"the log no longer holds version {version}")
    try:
        actions = [json.loads(line) for line in text.splitlines() if line.strip()]
        added = [action["add"] for action in actions if action.get("add")]
        removed = [action["remove"] for action in actions if action.get("remove")]
        info: dict[str, Any] = next((action["commitInfo"] for action in actions if action.get("commitInfo")), {})
        return Commit(
            version=version,
            added=frozenset(_path(add) for add in added),
            with_rows=tuple(_path(add) for add in added if add.get("dataChange", True)),
            removed=frozenset(_path(remove) for remove in removed),
            without_new_keys=info.get(f"{COUNT_PREFIX}inserted") == "0",
            other=any("metaData" in action or "protocol" in action for action in actions),
        )
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        raise Untold(f"version {version} is no commit") from None


def _path(action: dict[str, Any]) -> str:
    path = unquote(str(action["path"]))
    if "://" in path or path.startswith("/") or ".." in path.split("/"):
        raise Untold(f"{path} lies outside the table")
    return path
