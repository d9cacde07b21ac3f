"""What an export gives to a format, and what a format owes."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from sightflow.blocks.exports.exported import LeftOut
from sightflow.blocks.exports.folder import ExportFolder
from sightflow.blocks.exports.media_files import MediaFiles
from sightflow.blocks.exports.selected_rows import SelectedRows


@dataclass(frozen=True)
class Export:
    """All that a format is given: what to write, where to, and who brings the media."""

    selected: SelectedRows
    folder: ExportFolder
    media: MediaFiles
    left_out: LeftOut


class ExportFormat(ABC):
    """One format. What it writes appears under its name when it is whole, and is not written again."""

    name: ClassVar[str]
    description: ClassVar[str]
    """One line for `--help`."""
    loses: ClassVar[tuple[str, ...]]
    """What it cannot hold of any catalog, in words."""
    capabilities: ClassVar[frozenset[str] | None] = None
    """What it takes one enrichment of; None: it takes all enrichments together."""
    refused_folders: ClassVar[re.Pattern[str] | None] = None
    """Names of folders, in keys, that the format would take for something else."""
    all_columns: ClassVar[bool] = False
    """Whether it wants the bookkeeping of a row too."""

    @abstractmethod
    def write(self, export: Export) -> None:
        """Write all files, in the order of the objects, holding a bounded number of them in memory.

        Files that are there are whole: written again are those that are not. What cannot be held is told to `left_out`.
        """
