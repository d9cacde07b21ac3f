"""The sizes of a sample of the objects that are still to be asked about: as the catalog knows them, or read now."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.capability import MediaKind
from sightflow.tasks.media.media_shape import FIRST_READ, SECOND_READ, MediaShape, media_shape

SAMPLE = 100
"""Objects of a sample."""


@dataclass(frozen=True)
class SampledSizes:
    """The shapes of a sample, and how many of them were `known` and `read`."""

    shapes: tuple[MediaShape, ...]
    known: int
    read: int

    @property
    def summary(self) -> str:
        """In words, e.g. `sizes of 100 objects read`."""
        parts = [f"{self.read:,} read"] if self.read else []
        parts += [f"{self.known:,} known from the catalog"] if self.known else []
        return f"sizes of {' and '.join(parts)}" if parts else ""


class MediaSizes:
    """Looks up shapes, each object once."""

    def __init__(self, catalog: Catalog, store: ObjectStore) -> None:
        self._catalog, self._store = catalog, store
        self._known: dict[str, MediaShape] = {}
        self._read: dict[str, MediaShape | None] = {}

    def of(self, objects: pl.DataFrame, media_kind: MediaKind) -> SampledSizes:
        """A sample of these objects (`uri, object_version, bytes`), evenly spread from the smallest file to the
        largest: the same objects give the same sample.
        """
        chosen = sample(objects)
        self._look_up(chosen, media_kind)
        uris = chosen["uri"].to_list()
        known = [self._known[uri] for uri in uris if uri in self._known]
        read = [shape for uri in uris if uri not in self._known and (shape := self._read.get(uri)) is not None]
        return SampledSizes((*known, *read), len(known), len(read))

    def _look_up(self, chosen: pl.DataFrame, media_kind: MediaKind) -> None:
        unseen = chosen.filter(~pl.col("uri").is_in([*self._known, *self._read]))
        if unseen.is_empty():
            return
        if media_kind is MediaKind.VIDEO:  # whether it has sound, which costs tokens, the catalog does not know
            self._read_starts(unseen, media_kind)
            self._ask_catalog(
                unseen.filter(pl.col("uri").is_in([uri for uri, shape in self._read.items() if not shape]))
            )
        else:
            self._ask_catalog(unseen)
            self._read_starts(unseen.filter(~pl.col("uri").is_in(list(self._known))), media_kind)

    def _ask_catalog(self, objects: pl.DataFrame) -> None:
        if objects.is_empty():
            return
        rows = self._catalog.scan("enrichments").filter(pl.col("uri").is_in(objects["uri"].to_list()))
        found = self._catalog.read(
            rows.join(objects.lazy().select("uri", "object_version"), on=["uri", "object_version"])
            .select("uri", "width", "height", "duration")
            .unique("uri")
        )
        self._known |= {uri: MediaShape(width, height, seconds) for uri, width, height, seconds in found.iter_rows()}

    def _read_starts(self, objects: pl.DataFrame, media_kind: MediaKind) -> None:
        left = objects["uri"].to_list()
        for length in (FIRST_READ, SECOND_READ):
            if not left:
                return
            starts = self._store.read_starts(left, length)
            self._read |= {
                uri: None if start is None else media_shape(media_kind, start)
                for uri, start in zip(left, starts, strict=True)
            }
            left = [uri for uri in left if self._read[uri] is None]


def sample(objects: pl.DataFrame, count: int = SAMPLE) -> pl.DataFrame:
    """So many of these objects, or all of them, evenly spread from the smallest file to the largest."""
    if objects.height <= count:
        return objects
    places = [int((k + 0.5) * objects.height / count) for k in range(count)]
    return objects.sort("bytes", "uri")[places]
