"""Whole videos for Gemini: inline when they are small, through the Files API when not, and deleted after use."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filetype

from sightflow.blocks.models.contract import ReplyError
from sightflow.blocks.models.engines.providers.rate_limits import Clock
from sightflow.schemas.failure import Cause
from sightflow.schemas.media import DecodedVideo

if TYPE_CHECKING:
    from google.genai import types

# A request may have 20 MB, and base64 makes four bytes of three.
INLINE_BYTES = 14_000_000
_TAKEN = frozenset(
    f"video/{kind}" for kind in ("mp4", "mpeg", "quicktime", "x-msvideo", "x-flv", "webm", "x-ms-wmv", "3gpp")
)
_SAME = {"video/quicktime": "video/mov", "video/x-msvideo": "video/avi"}
_POLL_SECONDS = 2.0
_LONGEST_PROCESSING = 600.0


def mime_type(video: DecodedVideo) -> str | None:
    """The type of a video's file as Gemini names it, by its content; None if there is no file that it takes."""
    kind = filetype.guess(str(video.source)) if video.source else None
    if kind is None or kind.mime not in _TAKEN:
        return None
    return _SAME.get(kind.mime, str(kind.mime))


def span(video: DecodedVideo) -> types.VideoMetadata:
    """The part of the file that the sampled frames stand for, and how many frames a second they are."""
    from google.genai import types

    first, last, steps = video.seconds[0], video.seconds[-1], max(1, len(video.seconds) - 1)
    step = (last - first) / steps or video.duration or 1.0
    start, end = max(0.0, first - step), min(video.duration, last + step)
    return types.VideoMetadata(
        fps=min(24.0, max(0.01, round(1 / step, 3))),
        start_offset=f"{start:.3f}s" if start > 0 else None,
        end_offset=f"{end:.3f}s" if end < video.duration else None,
    )


class UploadedVideos:
    """The files that runs in progress have uploaded; one is deleted when no run needs it any more."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._needed: Counter[str] = Counter()
        self._uploading: dict[str, threading.Lock] = {}
        self._files: dict[str, types.File] = {}

    def need(self, videos: Iterable[str]) -> None:
        """A run begins that asks about these videos (by their sha256)."""
        with self._lock:
            self._needed.update(videos)

    def release(self, client: Any, videos: Iterable[str]) -> None:
        """A run has ended. What cannot be deleted now the provider deletes after two days."""
        with self._lock:
            self._needed.subtract(videos)
            gone = [self._files.pop(sha) for sha in list(self._files) if self._needed[sha] <= 0]
        for file in gone:
            try:
                client.files.delete(name=file.name)
            except Exception:  # noqa: S112 - a file left over costs nothing and ends by itself
                continue

    def part(self, client: Any, video: DecodedVideo, mime: str) -> types.Part:
        """The video as a part of a request; uploads it if it is large and not there yet.

        Raises what the SDK raises, and ReplyError if the provider cannot process the file.
        """
        from google.genai import types

        if video.source is None:
            raise ReplyError("the video's file is gone", Cause.FETCH)
        if video.source.stat().st_size <= INLINE_BYTES:
            blob = types.Blob(data=video.source.read_bytes(), mime_type=mime)
            return types.Part(inline_data=blob, video_metadata=span(video))
        with self._lock:
            alone = self._uploading.setdefault(video.sha256, threading.Lock())
        with alone:
            file = self._files.get(video.sha256)
            if file is None:
                file = self._upload(client, video.source, mime)
                with self._lock:
                    self._files[video.sha256] = file
        return types.Part(
            file_data=types.FileData(file_uri=file.uri, mime_type=file.mime_type), video_metadata=span(video)
        )

    def _upload(self, client: Any, source: Path, mime: str) -> types.File:
        from google.genai import types

        file: types.File = client.files.upload(file=source, config={"mime_type": mime})
        waited = 0.0
        while file.state == types.FileState.PROCESSING and waited < _LONGEST_PROCESSING:
            self._clock.wait(_POLL_SECONDS, threading.Event())
            waited += _POLL_SECONDS
            file = client.files.get(name=file.name)
        if file.state != types.FileState.ACTIVE:
            raise ReplyError(f"Google could not process the video: {file.state}", Cause.UNSUPPORTED)
        return file
