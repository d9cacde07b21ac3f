"""A shard's media become the model's requests, read and decoded ahead of the model.

Images are held by the group, and a video by the frames in flight: never by how many there are, nor how long.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.failure import Failure, Stage
from sightflow.schemas.media import DecodedImage, MediaFacts
from sightflow.schemas.policy import Limits
from sightflow.schemas.run.plan import ResolvedEnrichment, Shard, ShardItem
from sightflow.schemas.run.timing import Span, timed
from sightflow.schemas.vision import VisionRequest
from sightflow.tasks.fetch import Fetched
from sightflow.tasks.media.decode_image import decode
from sightflow.tasks.media.windows import Window
from sightflow.tasks.memory.pixel_budget import PixelBudget

_logger = logging.getLogger(__name__)

_DECODERS = max(2, min(8, os.cpu_count() or 2))
PIXEL_BYTES = 4  # Pillow's RGB


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
    shard: Shard, fetched: Fetched, limits: Limits, model: VisionModel, spans: list[Span], budget: PixelBudget
) -> Iterator[list[InferenceItem]]:
    """Yield what is asked of a group of images at a time, decoding the next ones in threads while these are used.

    In memory as pixels are a group and half of the next one, and of large images as few as `budget` allows; an object's
    bytes are let go when it has been decoded.
    """

    def decode_timed(index: int) -> tuple[list[InferenceItem], Span]:
        own_spans: list[Span] = []
        held = 0
        try:
            with timed(own_spans, Stage.DECODE):
                items = decode_items(index)
            media = items[0].request.media if items and items[0].request else None
            if isinstance(media, DecodedImage):
                held = PIXEL_BYTES * media.pixels.width * media.pixels.height
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
    pending: deque[Future[tuple[list[InferenceItem], Span]]] = deque()
    first = 0
    with budget, ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode") as pool:

        def decode_until(stop: int) -> None:
            begun = range(first + len(pending), min(stop, count))
            pending.extend(pool.submit(decode_timed, index) for index in begun)

        try:
            while first < count:
                decode_until(first + group_size)
                decoded: list[tuple[list[InferenceItem], Span]] = []
                size = 0
                while pending and len(decoded) < group_size and size < budget.share // 2:
                    if not budget.wait_until_decoded(pending[0], is_holding=bool(decoded)):
                        break
                    decoded.append(pending.popleft().result())
                    size += budget.held(first)
                    first += 1
                start, end = min(span.start for _, span in decoded), max(span.end for _, span in decoded)
                spans.append(replace(decoded[0][1], start=start, end=end))
                decode_until(first + (group_size + 1) // 2)
                items = [item for own, _ in decoded for item in own]
                group = range(first - len(decoded), first)
                del decoded
                with budget.lent():
                    yield items
                del items
                for index in group:
                    budget.release(index)
        finally:
            budget.close()
            for future in pending:
                future.cancel()
