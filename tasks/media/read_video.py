"""Videos: exactly the frames that are asked for, upright, in square pixels, all of one size."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from PIL import Image

from sightflow.schemas.enrichment import FrameSampling
from sightflow.schemas.failure import Cause
from sightflow.tasks.media.decoding_bounds import DecodingBounds
from sightflow.tasks.media.video_container import VideoError, open_video, video_stream
from sightflow.tasks.media.video_index import VideoIndex, decoded_frames

# A seek fills the decoder anew; so many frames are decoded on the way rather than that.
_WORTH_A_SEEK: Final = 12
# How far the shape of a frame may be from that of the first, as a part of it: 1080 lines are coded as 1088.
_SAME_SHAPE: Final = 0.02


def sampled(index: VideoIndex, sampling: FrameSampling) -> list[int]:
    """The indices of the frames that a sampling asks for, ascending, each once.

    `frames`: the frames on the screen in the middle of n equal parts; `fps`: at the start and every 1/fps seconds;
    `keyframes`: all of them; none of these: every frame. All within `start` and `end`.
    """
    end = min(sampling.end if sampling.end is not None else math.inf, index.duration)
    if sampling.start >= max(index.duration, 1e-9):
        return []
    if sampling.frames:
        step = (end - sampling.start) / sampling.frames
        times = [sampling.start + (k + 0.5) * step for k in range(sampling.frames)]
    elif sampling.fps:
        count = max(math.ceil((end - sampling.start) * sampling.fps - 1e-9), 1)
        times = [sampling.start + k / sampling.fps for k in range(count)]
    else:
        inside = index.keyframes if sampling.keyframes else np.arange(index.frame_count)
        seconds = index.seconds[inside]
        return [int(k) for k in inside[(seconds >= sampling.start - 1e-9) & (seconds < max(end, 1e-9))]]
    return sorted({index.frame_at(seconds) for seconds in times})


def read_frames(
    path: Path, index: VideoIndex, wanted: Sequence[int], longest_side: int | None = None
) -> Iterator[tuple[int, Image.Image]]:
    """Yield `(frame index, upright RGB picture)` for the wanted indices, ascending, one at a time.

    Seeks where a keyframe lies ahead, decodes on where that is nearer; counted videos are decoded from the start. A
    frame that the decoder cannot give is left out. `longest_side`: scale pictures down to it. All are of one size:
    one of another size and the same shape is scaled.
    Raises VideoError `decode` if it can give none, `unsupported` if the shape of the frames changes, `too_large` past
    the limits on pixels and seconds.
    """
    found = 0
    bounds = DecodingBounds(index.frame_count, index.duration)
    with open_video(path) as container:
        stream = video_stream(container, index.stream, index.max_pixels)
        stream.thread_type = "AUTO"
        frames: Iterator[tuple[int, Any]] | None = None
        current: tuple[int, Any] | None = None
        ended_from = -1  # the keyframe from which on nothing more could be decoded
        for target in sorted(set(wanted)):
            position = current[0] if current else -1
            keyframe = _keyframe_before(index, target)
            if frames is None and keyframe == ended_from:
                continue
            if frames is None or (not index.counted and keyframe > position + _WORTH_A_SEEK):
                begun = frames is not None or ended_from >= 0
                frames, current = _decoded_from(container, stream, index, target, bounds, begun), None
            while current is None or current[0] < target:
                current = next(frames, None)
                if current is None:
                    break
            if current is None:
                if index.counted:
                    break
                frames, ended_from = None, keyframe  # the stream ended, or broke, before it
            elif current[0] == target and not current[1].is_corrupt:
                found += 1
                image, since = _image(current[1], index, longest_side), time.monotonic()
                yield target, image
                bounds.waited(time.monotonic() - since)
    if wanted and not found:
        raise VideoError(Cause.DECODE, f"none of {len(wanted)} frames could be decoded")


def _decoded_from(
    container: Any, stream: Any, index: VideoIndex, target: int, bounds: DecodingBounds, begun: bool
) -> Iterator[tuple[int, Any]]:
    """Seek to where `target` can be decoded from, and decode on to the end. `begun`: no longer at the start."""
    if index.counted:
        yield from enumerate(decoded_frames(container, stream, bounds))
        return
    place = max(int(np.searchsorted(index.keyframes, target, side="right")) - 1, 0)
    if place == 0 and not begun:  # some containers of a single frame cannot be sought through
        yield from _numbered(container, stream, index, bounds)
        return
    aims = [int(index.pts[index.keyframes[k]]) for k in (place, place - 2) if 0 < k < len(index.keyframes)]
    start = int(index.pts[0])
    # A container may seek by decoding times and land behind what is wanted; then an earlier aim is tried, at
    # last one before the start, which transport streams need.
    aims += [start, start - round(10 / index.time_base)]
    for aim in aims:
        try:
            container.seek(aim, stream=stream, backward=True, any_frame=False)
        except av.FFmpegError:
            continue
        frames = _numbered(container, stream, index, bounds)
        first = next(frames, None)
        if first is not None and (first[0] <= target or aim == aims[-1]):
            yield first
            yield from frames
            return


def _numbered(container: Any, stream: Any, index: VideoIndex, bounds: DecodingBounds) -> Iterator[tuple[int, Any]]:
    """Decode on, and tell each frame's number by its time."""
    for frame in decoded_frames(container, stream, bounds):
        if frame.pts is None or frame.is_corrupt:
            continue
        number = int(np.searchsorted(index.pts, frame.pts))
        if number < index.frame_count and index.pts[number] == frame.pts:
            yield number, frame


def _keyframe_before(index: VideoIndex, frame: int) -> int:
    place = int(np.searchsorted(index.keyframes, frame, side="right")) - 1
    return int(index.keyframes[place]) if place >= 0 else 0


def _image(frame: Any, index: VideoIndex, longest_side: int | None) -> Image.Image:
    _check_shape(frame, index)
    width, height = (index.height, index.width) if index.rotation % 180 else (index.width, index.height)
    if longest_side and max(width, height) > longest_side:
        scale = longest_side / max(width, height)
        width, height = max(round(width * scale), 1), max(round(height * scale), 1)
    pixels = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
    if index.rotation:
        pixels = np.ascontiguousarray(np.rot90(pixels, k=index.rotation // 90))
    return Image.fromarray(pixels)


def _check_shape(frame: Any, index: VideoIndex) -> None:
    """Refuse what could only be shown stretched: boxes would be told in a picture that there is not."""
    if frame.width * frame.height > index.max_pixels:
        size = f"{frame.width:,} x {frame.height:,} pixels"
        raise VideoError(Cause.TOO_LARGE, f"its frames grow to {size}; the limit is {index.max_pixels:,}")
    width, height = index.stored
    if abs(frame.width * height - frame.height * width) > _SAME_SHAPE * frame.height * width:
        change = f"from {width} x {height} to {frame.width} x {frame.height}"
        raise VideoError(Cause.UNSUPPORTED, f"the shape of its frames changes {change}")
