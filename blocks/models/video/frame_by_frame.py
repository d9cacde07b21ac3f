"""Videos for models that see one picture at a time: each sampled frame is asked about, the answers are gathered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import (
    Enrichment,
    Region,
    RegionsResult,
    Result,
    Segment,
    TextResult,
    Track,
    TracksResult,
)
from sightflow.schemas.failure import Failure
from sightflow.schemas.media import DecodedImage, DecodedVideo
from sightflow.schemas.vision import Usage, VisionReply, VisionRequest

ASSOCIATION_VERSION: Final = 3
"""Part of the fingerprint of tracks that are linked here: another way of linking makes them stale."""

_MAY_FAIL = 0.05  # of the frames
_OF_A_FRAME = {
    Capability.OBJECT_TRACKING: Capability.OBJECT_DETECTION,
    Capability.VIDEO_CAPTIONING: Capability.IMAGE_CAPTIONING,
}


def as_frame_enrichment(enrichment: Enrichment) -> Enrichment:
    """What is asked of each frame: of tracking the detection, or of masks too the segmentation; of a video's caption
    that of a picture.
    """
    capability = _OF_A_FRAME.get(enrichment.capability, enrichment.capability)
    if enrichment.masks:
        capability = Capability.SEGMENTATION
    return enrichment.model_copy(update={"capability": capability, "masks": False})


def frame_requests(request: VisionRequest, video: DecodedVideo) -> list[VisionRequest]:
    """One request for each frame; its `width, height` are those of the upright original."""
    enrichment = as_frame_enrichment(request.enrichment)
    frames = [DecodedImage(image, video.width, video.height, video.sha256) for image in video.frames]
    return [VisionRequest(request.uri, enrichment, frame) for frame in frames]


def merge_frame_replies(request: VisionRequest, video: DecodedVideo, replies: Sequence[VisionReply]) -> VisionReply:
    """The replies about each frame, at least one, in their order, as the one reply about the video.

    Up to one frame in twenty may fail; the raw reply says which and why, and tracks bridge them. More fail the video.
    Regions get their frame's index and seconds and, for tracking, are linked. Captions become timed segments and the
    distinct ones, in their order, the text; of answers the most frequent is the text.
    """
    times = list(zip(video.indices, video.seconds, strict=True))
    outcome: Result | Failure
    failed = [(seconds, r.failure) for (_, seconds), r in zip(times, replies, strict=True) if r.failure]
    if len(failed) > _MAY_FAIL * len(replies):
        seconds, failure = failed[0]
        others = f" (and {len(failed) - 1} more of {len(replies)} frames)" if len(failed) > 1 else ""
        outcome = replace(failure, message=f"at {seconds:.2f} s: {failure.message}{others}")
    elif request.enrichment.capability.gives_text:
        outcome = _text(request.enrichment, video, replies)
    else:
        placed = [
            replace(region, frame_index=index, seconds=seconds)
            for (index, seconds), r in zip(times, replies, strict=True)
            if isinstance(r.outcome, RegionsResult)
            for region in r.outcome.regions
        ]
        tracking = request.enrichment.capability is Capability.OBJECT_TRACKING
        if tracking and not request.enrichment.masks:  # a detector may give them unasked
            placed = [replace(region, mask=None) for region in placed]
        outcome = TracksResult(_linked(video, times, placed)) if tracking else RegionsResult(tuple(placed))
    raw = "\n".join(_raw(seconds, reply) for seconds, reply in zip(video.seconds, replies, strict=True)) or None
    if isinstance(outcome, Failure):
        outcome = replace(outcome, raw_reply=raw)
    usage = sum((reply.usage for reply in replies), Usage())
    first = replies[0]
    return VisionReply(request.uri, request.enrichment.name, outcome, first.system, first.model_id, raw, usage)


def _linked(video: DecodedVideo, times: Sequence[tuple[int, float]], regions: Sequence[Region]) -> tuple[Track, ...]:
    from sightflow.blocks.models.video.tracking import link  # with numpy, which a plan can do without

    images = dict(zip(video.indices, video.frames, strict=True))
    return link(times, regions, images, (video.width, video.height))


def _raw(seconds: float, reply: VisionReply) -> str:
    if reply.failure:
        return f"[{seconds:.2f} s: {reply.failure.cause}: {reply.failure.message}] {reply.raw_reply or ''}"
    return reply.raw_reply or ""


def _text(enrichment: Enrichment, video: DecodedVideo, replies: Sequence[VisionReply]) -> TextResult:
    starts = video.seconds
    step = (starts[-1] - starts[0]) / max(len(starts) - 1, 1)  # the last frame stands as long as the others
    ends = [*starts[1:], min(starts[-1] + step, video.duration) if step else video.duration]
    texts: list[str] = []
    segments: list[Segment] = []
    for start, end, reply in zip(starts, ends, replies, strict=True):
        if not isinstance(reply.outcome, TextResult):
            continue
        text = reply.outcome.text
        texts.append(text)
        if segments and segments[-1].text == text:
            segments[-1] = replace(segments[-1], end=end)
        else:
            segments.append(Segment(start, end, text))
    if enrichment.capability is Capability.VIDEO_CAPTIONING:
        return TextResult("; then ".join(segment.text for segment in segments), tuple(segments))
    return TextResult(Counter(texts).most_common(1)[0][0], tuple(segments))
