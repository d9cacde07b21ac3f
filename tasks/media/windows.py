"""Windows: a video with more sampled frames than are shown at once is asked about in parts, joined by rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sightflow.blocks.models.video.tracking import stitch
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import (
    Enrichment,
    RegionsResult,
    Result,
    Segment,
    TextResult,
    TracksResult,
)
from sightflow.schemas.failure import Cause, Failure
from sightflow.schemas.vision import Usage, VisionReply

_SHARED_FRAMES = 8  # of two windows that follow each other, by which tracks are recognised


@dataclass(frozen=True)
class Window:
    """Some sampled frames of a video that are asked about together.

    `frames`: indices in the video, ascending. `start`, `end`: the seconds it stands for. `overview`: spread over the
    whole video, for the one answer that the parts have in common.
    """

    frames: tuple[int, ...]
    start: float
    end: float
    overview: bool = False


def cut(
    frames: Sequence[int], seconds: Sequence[float], end: float, enrichment: Enrichment, most: int
) -> tuple[Window, ...]:
    """Cut sampled frames, `seconds[k]` being the time of `frames[k]`, into windows of at most `most` frames.

    `end`: until when, in seconds, the last frame stands.

    Text is asked of consecutive windows and, for the answer as a whole, of an overview; regions of consecutive windows;
    tracks of windows that share frames with the one before.
    """
    if len(frames) <= most:
        return (Window(tuple(frames), seconds[0], end),)
    shared = min(_SHARED_FRAMES, most // 2) if enrichment.capability is Capability.OBJECT_TRACKING else 0
    starts = range(0, len(frames) - shared, most - shared)
    windows = []
    for first in starts:
        last = min(first + most, len(frames))
        until = seconds[last] if last < len(frames) else end
        windows.append(Window(tuple(frames[first:last]), seconds[first], until))
    if enrichment.capability.gives_text:
        spread = [frames[int((k + 0.5) * len(frames) / most)] for k in range(most)]
        windows.insert(0, Window(tuple(spread), seconds[0], end, overview=True))
    return tuple(windows)


def join(enrichment: Enrichment, windows: Sequence[Window], replies: Sequence[VisionReply]) -> VisionReply:
    """The replies to an enrichment's windows, in their order, as its one reply; one that failed fails it."""
    first = replies[0]
    if len(replies) == 1:
        return first
    failed = next(((w, r.failure) for w, r in zip(windows, replies, strict=True) if r.failure), None)
    outcome: Result | Failure
    if failed:
        window, failure = failed
        where = f"from {window.start:.1f} to {window.end:.1f} s: {failure.message}"
        outcome = replace(failure, message=where, attempts=max(r.failure.attempts for r in replies if r.failure))
    else:
        outcome = _joined(enrichment, windows, [reply.outcome for reply in replies])
    usage = sum((reply.usage for reply in replies), Usage())
    raw = "\n".join(reply.raw_reply for reply in replies if reply.raw_reply) or None
    # What the slowest route had to try is what the row tells.
    longest = max(replies, key=lambda reply: len(reply.route))
    return replace(longest, outcome=outcome, usage=usage, raw_reply=raw)


def _joined(
    enrichment: Enrichment, windows: Sequence[Window], outcomes: Sequence[Result | Failure]
) -> Result | Failure:
    if enrichment.capability is Capability.OBJECT_TRACKING:
        return TracksResult(stitch([o.tracks for o in outcomes if isinstance(o, TracksResult)]))
    if not enrichment.capability.gives_text:
        return RegionsResult(tuple(region for o in outcomes if isinstance(o, RegionsResult) for region in o.regions))
    texts = [(w, o) for w, o in zip(windows, outcomes, strict=True) if isinstance(o, TextResult)]
    whole = next((o.text for w, o in texts if w.overview), None)
    if whole is None:
        return Failure(Cause.MODEL, "there is no answer about the video as a whole")
    return TextResult(whole, tuple(Segment(w.start, w.end, o.text) for w, o in texts if not w.overview))
