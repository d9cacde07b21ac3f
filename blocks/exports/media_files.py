"""The media of an export: copied from the store, or named where they are."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal

from sightflow.blocks.exports.exported import ExportedObject
from sightflow.blocks.exports.folder import ExportFolder
from sightflow.blocks.store.media_places import MediaPlaces
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import Failure
from sightflow.schemas.object_uri import ObjectUri, Scheme
from sightflow.schemas.redaction import redact

MediaMode = Literal["link", "copy"]
AT_ONCE = 16
"""Objects that are fetched together: so many files lie on the disk beside those that are in their place."""
_MOST_NAMED = 1000  # failures; more are only counted


class MediaFiles:
    """Brings media into one export. `copy`: their bytes, if they are still those that the rows are about.

    `link`: a local file becomes a symbolic link, likewise, and an object of a bucket stays where it is, known by its
    URI. From elsewhere than `places` nothing is read or linked. `skip_missing`: whether what cannot be had is done
    without. `failures`: what could not be had, with the reason, of the first thousand; `failed` counts all.
    """

    def __init__(
        self,
        store: ObjectStore,
        folder: ExportFolder,
        mode: MediaMode,
        max_bytes: int,
        skip_missing: bool = False,
        places: MediaPlaces | None = None,
    ) -> None:
        self.mode, self._skip_missing, self._places = mode, skip_missing, places
        self._store, self._folder, self._max_bytes = store, folder, max_bytes
        self.failures: list[tuple[str, str]] = []
        self.failed = 0

    def has_all_since(self, failed: int) -> bool:
        """Whether a file that was begun when so many had failed may get its name: else what it lacks is tried again."""
        return self._skip_missing or self.failed == failed

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be tried again."""
        return self.has_all_since(0)

    def place(self, objects: Sequence[ExportedObject], below: str) -> None:
        """Put the media of some objects into a folder of the export, under their own names, unless they are there."""
        missing = [each for each in objects if not self._folder.has(f"{below}/{each.file}")]
        if self.mode == "link":
            self._link_all([each for each in missing if _is_local(each.uri)], below)
            return
        if missing:
            with self.fetched(missing) as files:
                for each, path in zip(missing, files, strict=True):
                    if path is not None:
                        self._take(path, f"{below}/{each.file}")

    def place_all(self, objects: Iterable[ExportedObject], below: str) -> None:
        """As `place`, for objects that are not all in memory."""
        remaining = iter(objects)
        while batch := list(islice(remaining, AT_ONCE)):
            self.place(batch, below)

    @contextmanager
    def fetched(self, objects: Sequence[ExportedObject]) -> Iterator[list[Path | None]]:
        """The media of some objects as files, in order, until the end of the block; None for one that failed."""
        with tempfile.TemporaryDirectory(suffix=".tmp", dir=self._folder.state) as place:
            refused = [self._refused(each.uri) for each in objects]
            wanted = [(each.uri, each.object_version) for each, why in zip(objects, refused, strict=True) if not why]
            got = iter(self._store.download_many(wanted, Path(place), self._max_bytes) if wanted else ())
            found = [why or next(got) for why in refused]
            yield [
                self._path(each, one if isinstance(one, str) else one.message if isinstance(one, Failure) else one.path)
                for each, one in zip(objects, found, strict=True)
            ]

    def _refused(self, uri: str) -> str | None:
        return self._places.refused(uri) if self._places else None

    def _path(self, one: ExportedObject, got: Path | str) -> Path | None:
        if isinstance(got, Path):
            return got
        self.failed += 1
        if len(self.failures) < _MOST_NAMED:
            self.failures.append((one.uri, redact(got)))
        return None

    def _take(self, path: Path, name: str) -> None:
        if path.is_relative_to(self._folder.state):
            self._folder.place(path, name)
            return
        with self._folder.temporary() as copy:  # the user's own file, which stays
            shutil.copyfile(path, copy)
            self._folder.place(copy, name)

    def _link_all(self, objects: Sequence[ExportedObject], below: str) -> None:
        """Link to local files that are as the rows have seen them."""
        failed: dict[str, Failure] = {}
        uris = [each.uri for each in objects if not self._refused(each.uri)]
        there = dict(self._store.head_many(uris, failed).select("uri", "object_version").iter_rows()) if uris else {}
        for each in objects:
            if why := self._refused(each.uri) or (failed[each.uri].message if each.uri in failed else None):
                self._path(each, why)
            elif there.get(each.uri) != each.object_version:
                self._path(each, f"{'replaced' if each.uri in there else 'deleted'} since it was listed")
            else:
                self._link(Path(ObjectUri.parse(each.uri).local_path), f"{below}/{each.file}")

    def _link(self, target: Path, name: str) -> None:
        place = self._folder.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, place)


def _is_local(uri: str) -> bool:
    return uri.startswith(f"{Scheme.FILE}://")
