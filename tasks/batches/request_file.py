"""The requests of a shard as a file on this disk, cut into files that a vendor takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from sightflow.blocks.models.contract import BatchLimits, ReplyError
from sightflow.schemas.failure import Cause
from sightflow.schemas.media import DecodedVideo
from sightflow.schemas.run.batch import BatchedRequest
from sightflow.tasks.batches.budget import most_of
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

    @property
    def rows(self) -> int:
        """How many rows it has the requests of."""
        return len(self._lines)

    def most_of(self, key: tuple[str, str]) -> int:
        """What the requests of a row may cost at most, nanodollars."""
        return most_of(line.request for line in self._lines[key])

    def first(self, room: int) -> list[BatchedRequest]:
        """The first rows' requests that a file of the vendor takes, and that cost so many nanodollars at most.

        None at all if the very first row costs more. They stay until they are dropped.
        """
        chosen: list[BatchedRequest] = []
        size = most = 0
        for key, lines in self._lines.items():
            size += sum(line.length for line in lines)
            most += self.most_of(key)
            full = len(chosen) + len(lines) > self._limits.requests or size > self._limits.file_bytes
            if most > room or (chosen and full):
                break
            chosen += [line.request for line in lines]
        return chosen

    @contextmanager
    def written(self, requests: Sequence[BatchedRequest]) -> Iterator[Path]:
        """A file of these requests, the first that there are, which is there within the block."""
        path = self._folder / "batch.jsonl"
        lines = (line for lines in self._lines.values() for line in lines)
        with path.open("wb") as file:
            for line in islice(lines, len(requests)):
                self._all.seek(line.start)
                left = line.length
                while left:
                    left -= file.write(self._all.read(min(left, _COPIED_AT_ONCE)))
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of what was kept."""
        self._all.close()


def custom_id(item: InferenceItem) -> str:
    """What a result is found by: a fingerprint of the row that it is for, and which part of that it is.

    36 characters and more; OpenAI takes 64. Two objects of the same bytes have one fingerprint, so the URI is in it.
    """
    shard_item, resolved = item.shard_item, item.resolved
    own = fingerprint(resolved.recipe, shard_item.object_version)
    digest = hashlib.sha256(f"{shard_item.uri}\n{resolved.enrichment.name}\n{own}".encode()).hexdigest()
    return f"{digest[:32]}-{item.window_index}"


def batched_request(item: InferenceItem, most_usd: float = 0.0) -> BatchedRequest:
    """What is kept of a request until its result comes; `most_usd`: what it may cost at most, US dollars."""
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
        most_usd=most_usd,
    )
