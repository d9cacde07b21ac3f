"""fetch: bring a shard's objects to this machine, each at the version that was planned."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sightflow.blocks.store.backend import too_large
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Cause, Failure, Stage, StoreRefusal, is_about_this_machine
from sightflow.schemas.media import MediaFile
from sightflow.schemas.run.plan import Shard
from sightflow.schemas.run.timing import Span, timed
from sightflow.schemas.spec import EnrichmentSpec, StoreSettings
from sightflow.tasks.memory.limit import in_gib, memory_budget
from sightflow.tasks.open import open_store
from sightflow.tasks.retries import retried_task
from sightflow.tasks.runtime.temporary_folder import TemporaryFolder


class Fetched:
    """A shard's objects by URI: images as bytes, videos as files, or why they could not be had.

    Files that were made here lie in `folder` and go when they are no longer needed, at the latest with this object.
    A plain class: Prefect looks into dataclasses and mappings that tasks exchange, and has no business here.
    """

    def __init__(
        self,
        contents: Mapping[str, bytes | MediaFile | Failure],
        spans: list[Span],
        folder: TemporaryFolder | None = None,
    ) -> None:
        self._contents = dict(contents)
        self._files: dict[str, MediaFile] = {}
        self._folder = folder
        self.spans = spans

    def __getstate__(self) -> dict[str, Any]:
        """For another machine: what lies in files of `folder` goes along as bytes."""

        def pack(content: bytes | MediaFile | Failure) -> bytes | MediaFile | Failure | tuple[bytes, str]:
            if isinstance(content, MediaFile) and self._is_ours(content):
                return content.path.read_bytes(), content.sha256
            return content

        return {"contents": {uri: pack(content) for uri, content in self._contents.items()}, "spans": self.spans}

    def __setstate__(self, state: dict[str, Any]) -> None:
        contents, folder = state["contents"], None
        if any(isinstance(content, tuple) for content in contents.values()):
            folder = TemporaryFolder("videos")
        for index, (uri, content) in enumerate(contents.items()):
            if folder and isinstance(content, tuple):
                path = folder.path / str(index)
                path.write_bytes(content[0])
                contents[uri] = MediaFile(path, content[1])
        self.__init__(contents, state["spans"], folder)  # type: ignore[misc]

    def _is_ours(self, file: MediaFile) -> bool:
        return self._folder is not None and file.path.is_relative_to(self._folder.path)

    def take(self, uri: str) -> bytes | MediaFile | Failure:
        """An object, which is then no longer kept here; its file stays until `release`."""
        content = self._contents.pop(uri)
        if isinstance(content, MediaFile):
            self._files[uri] = content
        return content

    def release(self, uri: str) -> None:
        """Remove an object's file, if it was made here."""
        file = self._files.pop(uri, None)
        if file and self._is_ours(file):
            file.path.unlink(missing_ok=True)


@cache
def _store(settings: StoreSettings) -> ObjectStore:
    """The store of all the shards of a process: Prefect, which may be away, is asked for a saved block once."""
    return open_store(settings)


@retried_task(task_run_name="fetch-{shard.index}")
def fetch(shard: Shard, spec: EnrichmentSpec) -> Fetched:
    """Read the objects of a shard, many at once; one that cannot be read is a failure among them.

    What is past the limit on bytes is not requested at all. Raises StoreRefusal if the store refuses us altogether, or
    if there is no room for the videos.
    """
    try:
        return _fetch(shard, spec)
    except OSError as error:
        if not is_about_this_machine(error):
            raise
        raise StoreRefusal(
            f"the objects of a shard cannot be kept in {tempfile.gettempdir()}: {error.strerror}; make room there, or "
            "set TMPDIR to a folder that has it"
        ) from None


def _no_memory_for(size: int, room: int) -> Failure:
    message = f"{in_gib(size)}; policy.memory leaves {in_gib(room)} for what is fetched; raise it, and replay"
    return Failure(Cause.TOO_LARGE, message, Stage.FETCH)


def _fetch(shard: Shard, spec: EnrichmentSpec) -> Fetched:
    spans: list[Span] = []
    limits = spec.policy.limits
    limit = limits.max_video_bytes if shard.media_kind is MediaKind.VIDEO else limits.max_bytes
    room = limit if shard.media_kind is MediaKind.VIDEO else memory_budget(spec.policy).fetched
    contents: dict[str, bytes | MediaFile | Failure] = {}
    for item in shard.items:
        if item.bytes > limit:
            contents[item.uri] = too_large(item.bytes, limit)
        elif item.bytes > room:
            contents[item.uri] = _no_memory_for(item.bytes, room)
    wanted = [(item.uri, item.object_version) for item in shard.items if item.uri not in contents]
    store, folder = _store(spec.store), None
    read: Sequence[bytes | MediaFile | Failure]
    with timed(spans, Stage.FETCH):
        if shard.media_kind is MediaKind.VIDEO:
            folder = TemporaryFolder("videos")
            read = store.download_many(wanted, folder.path, limit)
        else:
            read = store.read_many(wanted, min(limit, room))
    contents.update((uri, content) for (uri, _), content in zip(wanted, read, strict=True))
    return Fetched(contents, spans, folder)
