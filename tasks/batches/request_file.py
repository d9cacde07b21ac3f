"""The requests of a shard as a file on this disk, cut into files that a vendor takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sightflow.blocks.models.contract import BatchLimits, ReplyError
from sightflow.schemas.failure import Cause
from sightflow.schemas.media import DecodedVideo
from sightflow.schemas.run.batch import BatchedRequest
from sightflow.tasks.media.request_batches import InferenceItem
from sightflow.tasks.validate import fingerprint

_COPIED_AT_ONCE = 1 << 20


class _Line(NamedTuple):
    request: BatchedRequest
    start: int
    length: int


class RequestFile:
    """Takes lines in any order; what belongs to one row goes into one file, so that it comes back together."""

    def __init__(self, folder: Path, limits: BatchLimits) -> None:
        self._folder, self._limits = folder, limits
        self._lines: dict[tuple[str, str], list[_Line]] = {}
        self._all = (folder / "requests.jsonl").open("wb+")

    def add(self, request: BatchedRequest, line: bytes) -> None:
        """Keep one request. Raises ReplyError if no file of the vendor takes a line of this length."""
        if len(line) > self._limits.line_bytes:
            size, most = len(line) / 1e6, self._limits.line_bytes / 1e6
            message = (
                f"a request of {size:.1f} MB, and a batch takes {most:g} MB a line; replay it with delivery: direct"
            )
            raise ReplyError(message, Cause.TOO_LARGE)
        start = self._all.seek(0, 2)
        self._all.write(line)
        self._lines.setdefault(request.key, []).append(_Line(request, start, len(line)))

    def drop(self, key: tuple[str, str]) -> None:
        """Leave out what belongs to a row that cannot be had."""
        self._lines.pop(key, None)

    def cut(self) -> Iterator[tuple[Path, list[BatchedRequest]]]:
        """Files within the vendor's limits, each with what it holds; one is there until the next is asked for."""
        chosen: list[_Line] = []
        size = number = 0
        for lines in self._lines.values():
            more = sum(line.length for line in lines)
            full = len(chosen) + len(lines) > self._limits.requests or size + more > self._limits.file_bytes
            if chosen and full:
                yield from self._written(chosen, number)
                chosen, size, number = [], 0, number + 1
            chosen += lines
            size += more
        if chosen:
            yield from self._written(chosen, number)
        self._all.close()

    def _written(self, lines: list[_Line], number: int) -> Iterator[tuple[Path, list[BatchedRequest]]]:
        path = self._folder / f"batch-{number}.jsonl"
        with path.open("wb") as file:
            for line in lines:
                self._all.seek(line.start)
                left = line.length
                while left:
                    left -= file.write(self._all.read(min(left, _COPIED_AT_ONCE)))
        try:
            yield path, [line.request for line in lines]
        finally:
            path.unlink(missing_ok=True)


def custom_id(item: InferenceItem) -> str:
    """What a result is found by: a fingerprint of the row that it is for, and which part of that it is.

    36 characters and more; OpenAI takes 64. Two objects of the same bytes have one fingerprint, so the URI is in it.
    """
    shard_item, resolved = item.shard_item, item.resolved
    own = fingerprint(resolved.recipe, shard_item.object_version)
    digest = hashlib.sha256(f"{shard_item.uri}\n{resolved.enrichment.name}\n{own}".encode()).hexdigest()
    return f"{digest[:32]}-{item.window_index}"


def batched_request(item: InferenceItem) -> BatchedRequest:
    """What is kept of a request until its result comes."""
    assert item.request is not None and item.facts is not None
    shard_item, resolved, facts, media = item.shard_item, item.resolved, item.facts, item.request.media
    name = resolved.enrichment.name
    video = media if isinstance(media, DecodedVideo) else None
    seen = media.frames[0] if isinstance(media, DecodedVideo) else media.pixels
    window = item.windows[item.window_index] if item.windows else None
    return BatchedRequest(
        custom_id=custom_id(item),
        uri=shard_item.uri,
        enrichment=name,
        object_version=shard_item.object_version,
        recipe=resolved.recipe,
        bytes=shard_item.bytes,
        replaced=name in shard_item.replaced,
        media_kind=facts.kind.value,
        width=facts.width,
        height=facts.height,
        sha256=facts.sha256,
        duration=facts.duration,
        frame_rate=facts.frame_rate,
        seen_width=seen.width,
        seen_height=seen.height,
        frames=list(video.indices) if video else [],
        seconds=list(video.seconds) if video else [],
        window_start=window.start if window else None,
        window_end=window.end if window else None,
        overview=bool(window and window.overview),
        part=item.window_index,
        parts=max(len(item.windows), 1),
    )
