"""batch: a shard's media become the model's requests, read and decoded ahead of the model.

Pictures are held by the group, and a video by the frames in flight: never by how many there are, nor how long.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

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
from sightflow.tasks.media.pixel_budget import PixelBudget
from sightflow.tasks.media.read_video import VideoError, VideoIndex, index_video, read_frames, sampled
from sightflow.tasks.media.windows import Window, cut

_DECODERS = max(2, min(8, os.cpu_count() or 2))
_BATCH_BYTES = 64 * 2**20
_IMAGE_BYTES = 2**30
_PIXEL_BYTES = 4  # Pillow's RGB


@dataclass(frozen=True)
class InferenceItem:
    """One request of the model: an enrichment of an image, or of one window of a video.

    `windows` are all the windows of that enrichment, `place` is this one's among them. If the media could not be read
    there is a `failure` in place of the request.
    """

    item: ShardItem
    resolved: ResolvedEnrichment
    request: VisionRequest | None = None
    failure: Failure | None = None
    facts: MediaFacts | None = None
    windows: tuple[Window, ...] = ()
    place: int = 0


def image_batches(
    shard: Shard, fetched: Fetched, limits: Limits, model: VisionModel, spans: list[Span]
) -> Iterator[list[InferenceItem]]:
    """Yield what is asked of a group of images at a time, decoding the next ones in threads while these are used.

    At most two groups are in memory as pixels, and of large images so few that they take a gibibyte, plus one image and
    what the reader still holds of the group before; an object's bytes are let go when it has been decoded.
    """
    budget = PixelBudget(_IMAGE_BYTES)

    def timely(place: int) -> tuple[list[InferenceItem], Span]:
        mine: list[Span] = []
        held = 0
        try:
            with timed(mine, Stage.DECODE):
                asked = decoded(place)
            media = asked[0].request.media if asked and asked[0].request else None
            if isinstance(media, DecodedImage):
                held = _PIXEL_BYTES * media.pixels.width * media.pixels.height
        finally:
            budget.settle(place, held)
        return asked, mine[0]

    def decoded(place: int) -> list[InferenceItem]:
        item = shard.items[place]
        content = fetched.take(item.uri)
        resolved_enrichments = [shard.resolved(name) for name in item.enrichments]
        if isinstance(content, Failure):
            return [InferenceItem(item, resolved, failure=content) for resolved in resolved_enrichments]
        assert isinstance(content, bytes)
        media = decode(content, limits, model.decoded_side, partial(budget.reserve, place))
        if isinstance(media, Failure):
            return [InferenceItem(item, resolved, failure=media) for resolved in resolved_enrichments]
        facts = MediaFacts.of(media)
        return [
            InferenceItem(item, resolved, VisionRequest(item.uri, resolved.enrichment, media), facts=facts)
            for resolved in resolved_enrichments
        ]

    group, count = model.objects_at_once, len(shard.items)
    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode") as pool:
        try:
            pending = deque(pool.submit(timely, place) for place in range(min(group, count)))
            first = 0
            while pending:
                done: list[tuple[list[InferenceItem], Span]] = []
                size = 0
                while pending and len(done) < group and size < budget.limit // 2:
                    place = first + len(done)
                    budget.awaits(place)
                    done.append(pending.popleft().result())
                    size += budget.held(place)
                spans.append(replace(done[0][1], start=min(s.start for _, s in done), end=max(s.end for _, s in done)))
                batch = range(first, first + len(done))
                submitted = batch.stop + len(pending)
                following = range(submitted, min(batch.stop + group, count))
                pending.extend(pool.submit(timely, place) for place in following)
                asked = [item for items, _ in done for item in items]
                del done
                yield asked
                del asked
                for place in batch:
                    budget.release(place)
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
    windows = (asked for item in shard.items for asked in _windows_of(item, shard, fetched, limits, model))
    batches = _batched(windows, model.objects_at_once)

    def following() -> list[InferenceItem] | None:
        with timed(spans, Stage.DECODE):
            return next(batches, None)

    with ThreadPoolExecutor(1, thread_name_prefix="read-video") as reader:
        pending = reader.submit(following)
        while (batch := pending.result()) is not None:
            pending = reader.submit(following)
            yield batch


def _batched(stream: Iterator[InferenceItem], most: int) -> Iterator[list[InferenceItem]]:
    batch: list[InferenceItem] = []
    size = 0
    for asked in stream:
        batch.append(asked)
        size += _bytes_of(asked)
        if len(batch) >= most or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _bytes_of(asked: InferenceItem) -> int:
    media = asked.request.media if asked.request else None
    return sum(3 * f.width * f.height for f in media.frames) if isinstance(media, DecodedVideo) else 0


@dataclass
class _Open:
    """A window whose frames are still being read."""

    resolved: ResolvedEnrichment
    windows: tuple[Window, ...]
    place: int
    wanted: frozenset[int]
    images: dict[int, Image.Image] = field(default_factory=dict)


def _windows_of(
    item: ShardItem, shard: Shard, fetched: Fetched, limits: Limits, model: VisionModel
) -> Iterator[InferenceItem]:
    """Read one video and yield each window of each of its enrichments as soon as its frames are there."""
    file = fetched.take(item.uri)
    resolved_enrichments = [shard.resolved(name) for name in item.enrichments]
    if isinstance(file, Failure):
        yield from (InferenceItem(item, resolved, failure=file) for resolved in resolved_enrichments)
        return
    assert isinstance(file, MediaFile)
    try:
        index = index_video(file.path, limits)
    except Exception as error:
        failure = _failure(error)
        yield from (InferenceItem(item, resolved, failure=failure) for resolved in resolved_enrichments)
        return
    opened: list[_Open] = []
    for resolved in resolved_enrichments:
        try:
            opened += _opened(resolved, index, model)
        except VideoError as error:
            yield InferenceItem(item, resolved, failure=error.failure)
    yield from _read(item, file, index, opened, model)


def _read(
    item: ShardItem, file: MediaFile, index: VideoIndex, opened: Sequence[_Open], model: VisionModel
) -> Iterator[InferenceItem]:
    """Decode the frames of all the windows in one pass; a window goes out with its last frame."""
    facts = MediaFacts(MediaKind.VIDEO, index.width, index.height, file.sha256, index.duration, index.frame_rate)
    union = sorted(set().union(*(window.wanted for window in opened)))
    waiting = list(opened)
    failure: Failure | None = None
    try:
        for number, image in read_frames(file.path, index, union, model.longest_frame_side):
            for window in waiting:
                if number in window.wanted:
                    window.images[number] = image
            ready = [window for window in waiting if number >= max(window.wanted)]
            waiting = [window for window in waiting if number < max(window.wanted)]
            yield from (_asked(item, window, index, file, facts) for window in ready)
    except Exception as error:
        failure = _failure(error)
    for window in waiting:  # their last frames could not be decoded
        if window.images and failure is None:
            yield _asked(item, window, index, file, facts)
        else:
            span = window.windows[window.place]
            message = f"no frame from {span.start:.1f} to {span.end:.1f} s could be decoded"
            cause = failure or Failure(Cause.DECODE, message, Stage.DECODE)
            yield InferenceItem(item, window.resolved, failure=cause, windows=window.windows, place=window.place)


def _failure(error: Exception) -> Failure:
    if isinstance(error, VideoError):
        return error.failure
    if isinstance(error, MemoryError):
        return Failure(Cause.OUT_OF_MEMORY, "no memory to decode it", Stage.DECODE)
    # FFmpeg raises whatever a broken file leads it into.
    return Failure(Cause.DECODE, f"{type(error).__name__}: {error}"[:500], Stage.DECODE)


def _opened(resolved: ResolvedEnrichment, index: VideoIndex, model: VisionModel) -> list[_Open]:
    sampling = model.sampling(resolved.enrichment)
    wanted = sampled(index, sampling)
    if not wanted:
        where = f"from {sampling.start:g} s" + (f" to {sampling.end:g} s" if sampling.end else "")
        message = f"no frame of its {index.duration:.2f} s lies {where}, as {resolved.enrichment.name} asks"
        raise VideoError(Cause.DECODE, message)
    times = index.seconds[wanted].tolist()
    end = index.duration if sampling.end is None else min(sampling.end, index.duration)
    windows = cut(wanted, times, end, resolved.enrichment, sampling.max_frames)
    return [_Open(resolved, windows, place, frozenset(window.frames)) for place, window in enumerate(windows)]


def _asked(item: ShardItem, window: _Open, index: VideoIndex, file: MediaFile, facts: MediaFacts) -> InferenceItem:
    numbers = tuple(window.images)
    video = DecodedVideo(
        tuple(window.images.values()),
        numbers,
        tuple(index.seconds[list(numbers)].tolist()),
        index.width,
        index.height,
        index.duration,
        index.frame_rate,
        file.sha256,
        file.path,
    )
    request = VisionRequest(item.uri, window.resolved.enrichment, video)
    return InferenceItem(item, window.resolved, request, facts=facts, windows=window.windows, place=window.place)
