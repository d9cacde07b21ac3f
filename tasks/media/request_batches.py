"""A shard's media become the model's requests, read and decoded ahead of the model.

Images are held by the group, and a video by the frames in flight: never by how many there are, nor how long.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import av
from PIL import Image

from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Cause, Failure, Stage
from sightflow.schemas.media import DecodedImage, DecodedVideo, MediaFacts, MediaFile
from sightflow.schemas.run.plan import ResolvedEnrichment, Shard, ShardItem
from sightflow.schemas.run.timing import Span, timed
from sightflow.schemas.spec import Limits
from sightflow.schemas.vision import VisionRequest
from sightflow.tasks.fetch import Fetched
from sightflow.tasks.media.decode_image import decode
from sightflow.tasks.media.pixel_budget import PixelBudget, PixelMemory
from sightflow.tasks.media.read_video import read_frames, sampled
from sightflow.tasks.media.video_container import VideoError
from sightflow.tasks.media.video_index import VideoIndex, index_video
from sightflow.tasks.media.windows import Window, cut

_logger = logging.getLogger(__name__)

_DECODERS = max(2, min(8, os.cpu_count() or 2))
_BATCH_BYTES = 64 * 2**20
_PIXEL_MEMORY = PixelMemory(2**30)
_PIXEL_BYTES = 4  # Pillow's RGB


@dataclass(frozen=True)
class InferenceItem:
    """One request of the model: an enrichment of an image, or of one window of a video.

    `windows` are all the windows of that enrichment, `window_index` is this one's among them. If the media could not be
    read there is a `failure` in place of the request.
    """

    shard_item: ShardItem
    resolved: ResolvedEnrichment
    request: VisionRequest | None = None
    failure: Failure | None = None
    facts: MediaFacts | None = None
    windows: tuple[Window, ...] = ()
    window_index: int = 0


def image_batches(
    shard: Shard, fetched: Fetched, limits: Limits, model: VisionModel, spans: list[Span]
) -> Iterator[list[InferenceItem]]:
    """Yield what is asked of a group of images at a time, decoding the next ones in threads while these are used.

    At most two groups are in memory as pixels, and of large images so few that all shards of a process take a gibibyte,
    plus one image and what the readers still hold; an object's bytes are let go when it has been decoded.
    """
    budget = PixelBudget(_PIXEL_MEMORY)

    def decode_timed(index: int) -> tuple[list[InferenceItem], Span]:
        own_spans: list[Span] = []
        held = 0
        try:
            with timed(own_spans, Stage.DECODE):
                items = decode_items(index)
            media = items[0].request.media if items and items[0].request else None
            if isinstance(media, DecodedImage):
                held = _PIXEL_BYTES * media.pixels.width * media.pixels.height
        finally:
            budget.settle(index, held)
        return items, own_spans[0]

    def decode_items(index: int) -> list[InferenceItem]:
        shard_item = shard.items[index]
        content = fetched.take(shard_item.uri)
        resolved_enrichments = [shard.resolved(name) for name in shard_item.enrichments]
        if isinstance(content, Failure):
            return [InferenceItem(shard_item, resolved, failure=content) for resolved in resolved_enrichments]
        assert isinstance(content, bytes)
        media = decode(content, limits, model.decoded_side, partial(budget.reserve, index))
        if isinstance(media, Failure):
            return [InferenceItem(shard_item, resolved, failure=media) for resolved in resolved_enrichments]
        facts = MediaFacts.of(media)
        return [
            InferenceItem(shard_item, resolved, VisionRequest(shard_item.uri, resolved.enrichment, media), facts=facts)
            for resolved in resolved_enrichments
        ]

    group_size, count = model.objects_at_once, len(shard.items)
    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode") as pool:
        try:
            pending = deque(pool.submit(decode_timed, index) for index in range(min(group_size, count)))
            first = 0
            while pending:
                decoded: list[tuple[list[InferenceItem], Span]] = []
                size = 0
                while pending and len(decoded) < group_size and size < budget.share // 2:
                    index = first + len(decoded)
                    budget.awaits(index)
                    decoded.append(pending.popleft().result())
                    size += budget.held(index)
                start, end = min(span.start for _, span in decoded), max(span.end for _, span in decoded)
                spans.append(replace(decoded[0][1], start=start, end=end))
                batch = range(first, first + len(decoded))
                submitted = batch.stop + len(pending)
                following = range(submitted, min(batch.stop + group_size, count))
                pending.extend(pool.submit(decode_timed, index) for index in following)
                items = [item for own, _ in decoded for item in own]
                del decoded
                yield items
                del items
                for index in batch:
                    budget.release(index)
                first = batch.stop
        finally:
            budget.close()
            for future in pending:
                future.cancel()


def video_batches(
    shard: Shard, fetched: Fetched, limits: Limits, model: VisionModel, spans: list[Span]
) -> Iterator[list[InferenceItem]]:
    """Yield what is asked of videos, some windows at a time, reading the next ones in a thread meanwhile.

    A video is decoded once for all that is asked of it. A batch holds at most `model.objects_at_once` windows and
    64 MiB of pixels, and at least one window.
    """
    items = (item for shard_item in shard.items for item in _read_video(shard_item, shard, fetched, limits, model))
    batches = _batched(items, model.objects_at_once)

    def next_batch() -> list[InferenceItem] | None:
        with timed(spans, Stage.DECODE):
            return next(batches, None)

    with ThreadPoolExecutor(1, thread_name_prefix="read-video") as reader:
        pending = reader.submit(next_batch)
        while (batch := pending.result()) is not None:
            pending = reader.submit(next_batch)
            yield batch


def _batched(items: Iterator[InferenceItem], most: int) -> Iterator[list[InferenceItem]]:
    batch: list[InferenceItem] = []
    size = 0
    for item in items:
        batch.append(item)
        size += _frame_bytes(item)
        if len(batch) >= most or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _frame_bytes(item: InferenceItem) -> int:
    media = item.request.media if item.request else None
    return (
        sum(_PIXEL_BYTES * frame.width * frame.height for frame in media.frames)
        if isinstance(media, DecodedVideo)
        else 0
    )


@dataclass
class _OpenWindow:
    """A window whose frames are still being read: `windows[index]`, for one enrichment."""

    resolved: ResolvedEnrichment
    windows: tuple[Window, ...]
    index: int
    frames: frozenset[int]
    images: dict[int, Image.Image] = field(default_factory=dict)


def _read_video(
    shard_item: ShardItem, shard: Shard, fetched: Fetched, limits: Limits, model: VisionModel
) -> Iterator[InferenceItem]:
    """Read one video and yield each window of each of its enrichments as soon as its frames are there."""
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
