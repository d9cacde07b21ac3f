"""A shard's videos become the model's requests, window by window, read and decoded ahead of the model.

A video is held by the frames in flight: never by how long it is.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import av
from PIL import Image

from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Cause, Failure, Stage
from sightflow.schemas.media import DecodedVideo, MediaFacts, MediaFile
from sightflow.schemas.policy import Limits
from sightflow.schemas.run.plan import ResolvedEnrichment, Shard, ShardItem
from sightflow.schemas.run.timing import Span, timed
from sightflow.schemas.vision import VisionRequest
from sightflow.tasks.fetch import Fetched
from sightflow.tasks.media.read_video import read_frames, sampled
from sightflow.tasks.media.request_batches import PIXEL_BYTES, InferenceItem
from sightflow.tasks.media.video_container import VideoError
from sightflow.tasks.media.video_index import VideoIndex, index_video
from sightflow.tasks.media.windows import Window, cut
from sightflow.tasks.memory.pixel_budget import NeverFits, PixelBudget

_logger = logging.getLogger(__name__)

_BATCH_BYTES = 64 * 2**20
_DECODED_BYTES = 8  # of a pixel of the frame that is being decoded, as it is and as RGB


def video_batches(
    shard: Shard, fetched: Fetched, limits: Limits, model: VisionModel, spans: list[Span], budget: PixelBudget
) -> Iterator[list[InferenceItem]]:
    """Yield what is asked of videos, some windows at a time, reading the next ones in a thread meanwhile.

    A video is decoded once for all that is asked of it. A batch holds at most `model.objects_at_once` windows and
    64 MiB of pixels (of a small `budget` an eighth of it), and at least one window.
    """
    videos = _VideosInMemory(budget)
    read = (
        item
        for place, shard_item in enumerate(shard.items)
        for item in _read_video(shard_item, shard, fetched, limits, model, videos, place)
    )
    batches = _batched(read, model.objects_at_once, videos)

    def next_batch() -> list[InferenceItem] | None:
        with timed(spans, Stage.DECODE):
            return next(batches, None)

    with budget, ThreadPoolExecutor(1, thread_name_prefix="read-video") as reader:
        try:
            pending = reader.submit(next_batch)
            while (batch := pending.result()) is not None:
                pending = reader.submit(next_batch)
                with budget.lent():
                    yield batch
                videos.answered(batch)
        finally:
            budget.close()


class _VideosInMemory:
    """What the videos of a shard hold of its budget: each from before its first frame until its last window has been
    answered. Called from the thread that reads and from the one that asks.
    """

    def __init__(self, budget: PixelBudget) -> None:
        self.batch_bytes = min(_BATCH_BYTES, max(budget.limit // 8, 1))
        self._budget = budget
        self._counting = threading.Lock()
        self._unanswered: Counter[str] = Counter()
        self._read: dict[str, int] = {}

    def needed(self, index: VideoIndex, windows: Sequence[_OpenWindow], longest_side: int) -> int:
        """The bytes that a video takes at most: its frames in open windows, or in two batches, one of which is at the
        model, and the frame that is being decoded.
        """
        shrunk = min(longest_side / max(index.width, index.height, 1), 1.0)
        frame = int(PIXEL_BYTES * (index.width * shrunk + 1) * (index.height * shrunk + 1))
        longest = max((len(window.frames) for window in windows), default=0)
        in_batches = 2 * (self.batch_bytes // frame + longest)
        frames = min(_most_open(windows) + in_batches, sum(len(window.frames) for window in windows))
        return frame * frames + _DECODED_BYTES * index.width * index.height

    def must_wait(self, size: int) -> bool:
        """Whether there is no room for a video now."""
        return self._budget.would_wait(size)

    def begin(self, place: int, size: int) -> None:
        """Wait for room for a video. Raises as `PixelBudget.reserve` does."""
        self._budget.reserve(place, size)

    def waits(self, items: Sequence[InferenceItem]) -> None:
        """These will be given to the model."""
        with self._counting:
            self._unanswered.update(item.shard_item.uri for item in items)

    def answered(self, items: Sequence[InferenceItem]) -> None:
        """The model has answered these."""
        with self._counting:
            self._unanswered.subtract(item.shard_item.uri for item in items)
        for uri in {item.shard_item.uri for item in items}:
            self._release_if_done(uri)

    def end(self, place: int, uri: str) -> None:
        """A video has been read, or could not be; one that was never begun holds nobody up."""
        if not self._budget.held(place):
            self._budget.settle(place, 0)
        with self._counting:
            self._read[uri] = place
        self._release_if_done(uri)

    def _release_if_done(self, uri: str) -> None:
        with self._counting:
            place = self._read.get(uri)
            is_done = place is not None and not self._unanswered[uri]
        if is_done and place is not None:
            self._budget.release(place)


class _MakeRoom:
    """Comes between items: those before it are given to the model, whose memory the next video needs."""


def _batched(
    read: Iterator[InferenceItem | _MakeRoom], most: int, videos: _VideosInMemory
) -> Iterator[list[InferenceItem]]:
    batch: list[InferenceItem] = []
    size = 0
    for item in read:
        if not isinstance(item, _MakeRoom):
            batch.append(item)
            videos.waits([item])
            size += _frame_bytes(item)
            if len(batch) < most and size < videos.batch_bytes:
                continue
        if batch:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _frame_bytes(item: InferenceItem) -> int:
    media = item.request.media if item.request else None
    return (
        sum(PIXEL_BYTES * frame.width * frame.height for frame in media.frames)
        if isinstance(media, DecodedVideo)
        else 0
    )


def _most_open(windows: Sequence[_OpenWindow]) -> int:
    """The most frames that are held in windows of which not all frames have been read."""
    begun = sorted(frame for window in windows for frame in window.frames)
    ends = sorted((max(window.frames), len(window.frames)) for window in windows)
    most = held = place = 0
    for end, frames in ends:
        while place < len(begun) and begun[place] <= end:
            held, place = held + 1, place + 1
        most = max(most, held)
        held -= frames
    return most


@dataclass
class _OpenWindow:
    """A window whose frames are still being read: `windows[index]`, for one enrichment."""

    resolved: ResolvedEnrichment
    windows: tuple[Window, ...]
    index: int
    frames: frozenset[int]
    images: dict[int, Image.Image] = field(default_factory=dict)


def _read_video(
    shard_item: ShardItem,
    shard: Shard,
    fetched: Fetched,
    limits: Limits,
    model: VisionModel,
    videos: _VideosInMemory,
    place: int,
) -> Iterator[InferenceItem | _MakeRoom]:
    """Read one video, the one at this place of its shard, and yield each window of each of its enrichments as soon as
    its frames are there.
    """
    try:
        yield from _windows_of(shard_item, shard, fetched, limits, model, videos, place)
    finally:
        videos.end(place, shard_item.uri)


def _windows_of(
    shard_item: ShardItem,
    shard: Shard,
    fetched: Fetched,
    limits: Limits,
    model: VisionModel,
    videos: _VideosInMemory,
    place: int,
) -> Iterator[InferenceItem | _MakeRoom]:
    file = fetched.take(shard_item.uri)
    resolved_enrichments = [shard.resolved(name) for name in shard_item.enrichments]
    if isinstance(file, Failure):
        yield from (InferenceItem(shard_item, resolved, failure=file) for resolved in resolved_enrichments)
        return
    assert isinstance(file, MediaFile)
    try:
        index = index_video(file.path, limits)
    except Exception as error:  # a broken file leads FFmpeg, PyAV and NumPy into anything; type and text are kept
        failure = _failure(error, shard_item.uri)
        yield from (InferenceItem(shard_item, resolved, failure=failure) for resolved in resolved_enrichments)
        return
    windows: list[_OpenWindow] = []
    for resolved in resolved_enrichments:
        try:
            windows += _open_windows(resolved, index, model)
        except VideoError as error:
            yield InferenceItem(shard_item, resolved, failure=error.failure)
    if not windows:
        return
    needed = videos.needed(index, windows, model.longest_frame_side)
    if videos.must_wait(needed):
        yield _MakeRoom()
    try:
        videos.begin(place, needed)
    except NeverFits as error:
        failure = Failure(Cause.TOO_LARGE, str(error), Stage.DECODE)
        asked = {window.resolved.enrichment.name: window.resolved for window in windows}
        yield from (InferenceItem(shard_item, resolved, failure=failure) for resolved in asked.values())
        return
    yield from _read_windows(shard_item, file, index, windows, model)


def _read_windows(
    shard_item: ShardItem, file: MediaFile, index: VideoIndex, windows: Sequence[_OpenWindow], model: VisionModel
) -> Iterator[InferenceItem]:
    """Decode the frames of all the windows in one pass; a window goes out with its last frame."""
    facts = MediaFacts(MediaKind.VIDEO, index.width, index.height, file.sha256, index.duration, index.frame_rate)
    union = sorted(set().union(*(window.frames for window in windows)))
    waiting = list(windows)
    failure: Failure | None = None
    try:
        for number, image in read_frames(file.path, index, union, model.longest_frame_side):
            for window in waiting:
                if number in window.frames:
                    window.images[number] = image
            ready = [window for window in waiting if number >= max(window.frames)]
            waiting = [window for window in waiting if number < max(window.frames)]
            yield from (_inference_item(shard_item, window, index, file, facts) for window in ready)
    except Exception as error:  # a broken file leads FFmpeg, PyAV and NumPy into anything; type and text are kept
        failure = _failure(error, shard_item.uri)
    for window in waiting:  # their last frames could not be decoded
        if window.images and failure is None:
            yield _inference_item(shard_item, window, index, file, facts)
        else:
            span = window.windows[window.index]
            message = f"no frame from {span.start:.1f} to {span.end:.1f} s could be decoded"
            yield InferenceItem(
                shard_item,
                window.resolved,
                failure=failure or Failure(Cause.DECODE, message, Stage.DECODE),
                windows=window.windows,
                window_index=window.index,
            )


def _failure(error: Exception, uri: str) -> Failure:
    if isinstance(error, VideoError):
        return error.failure
    if isinstance(error, MemoryError):
        return Failure(Cause.OUT_OF_MEMORY, "no memory to decode it", Stage.DECODE)
    if not isinstance(error, av.FFmpegError):
        _logger.warning("%r: reading it raised neither an error of ours nor one of FFmpeg", uri, exc_info=error)
    return Failure(Cause.DECODE, f"{type(error).__name__}: {error}"[:500], Stage.DECODE)


def _open_windows(resolved: ResolvedEnrichment, index: VideoIndex, model: VisionModel) -> list[_OpenWindow]:
    sampling = model.sampling(resolved.enrichment)
    frames = sampled(index, sampling)
    if not frames:
        where = f"from {sampling.start:g} s" + (f" to {sampling.end:g} s" if sampling.end else "")
        message = f"no frame of its {index.duration:.2f} s lies {where}, as {resolved.enrichment.name} asks"
        raise VideoError(Cause.DECODE, message)
    times = index.seconds[frames].tolist()
    end = index.duration if sampling.end is None else min(sampling.end, index.duration)
    windows = cut(frames, times, end, resolved.enrichment, sampling.max_frames)
    return [_OpenWindow(resolved, windows, k, frozenset(window.frames)) for k, window in enumerate(windows)]


def _inference_item(
    shard_item: ShardItem, window: _OpenWindow, index: VideoIndex, file: MediaFile, facts: MediaFacts
) -> InferenceItem:
    indices = tuple(window.images)
    video = DecodedVideo(
        tuple(window.images.values()),
        indices,
        tuple(index.seconds[list(indices)].tolist()),
        index.width,
        index.height,
        index.duration,
        index.frame_rate,
        file.sha256,
        file.path,
    )
    request = VisionRequest(shard_item.uri, window.resolved.enrichment, video)
    return InferenceItem(shard_item, window.resolved, request, None, facts, window.windows, window.index)
