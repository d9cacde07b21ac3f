"""What is exported: objects in order, each with its rows and a safe file name; and what had to be left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sightflow.schemas.capability import Capability, MediaKind

Row = dict[str, Any]
"""A row of `enrichments` or `labels`, nested columns as lists of dictionaries."""

ROW_COLUMNS = (
    *("uri", "enrichment", "capability", "media_kind", "object_version", "sha256", "width", "height", "duration"),
    *("frame_rate", "parameters", "text", "segments", "regions", "tracks", "extracted"),
)
"""The columns that rows and labels have in common: all that a format needs that holds no bookkeeping."""


MASKS_BESIDE_BOXES = "masks of regions that are no segmentation, beside their boxes"
MASKS_OF_TRACKS = "masks of tracks, beside their boxes"


def masks_beside_boxes(row: Row) -> int:
    """How many regions have a mask that a format leaves out which takes either boxes or masks by the capability."""
    if row["capability"] == Capability.SEGMENTATION:
        return 0
    return sum(region["mask"] is not None for region in row["regions"])


def masks_of_tracks(row: Row) -> int:
    """How many masks a format leaves out which takes the boxes of tracks alone."""
    # An export that an earlier version has begun has no such field.
    return sum(point.get("mask") is not None for track in row["tracks"] for point in track["points"])


@dataclass(frozen=True)
class ExportedObject:
    """One object and its rows. `index`: its place in the order of URIs, from 0. `file`: its name below the folder of
    the media, with `/` between folders, safe on every file system and unique in the export also without its suffix.
    """

    index: int
    file: str
    rows: Sequence[Row]

    @property
    def uri(self) -> str:
        return str(self.rows[0]["uri"])

    @property
    def object_version(self) -> str:
        return str(self.rows[0]["object_version"])

    @property
    def is_video(self) -> bool:
        return bool(self.rows[0]["media_kind"] == MediaKind.VIDEO)

    @property
    def stem(self) -> str:
        """`file` without its suffix."""
        return str(PurePosixPath(self.file).with_suffix(""))


class LeftOut:
    """What a format could not hold, counted by its reason."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, what: str, count: int = 1) -> None:
        """Count what is left out, in words a user understands: `rows of videos`."""
        if count:
            self._counts[what] += count

    def items(self) -> Iterator[tuple[str, int]]:
        """Each reason and its count, the most frequent first."""
        yield from self._counts.most_common()
