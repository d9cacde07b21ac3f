"""The index of a video: how many frames, when each is shown, and which can be decoded alone.

It is made from the packets, without decoding more than one frame, where these have presentation times that go on.
Where they do not (AVI or ASF with B frames, raw streams, joined transport streams), all frames are decoded once and
counted.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt

from sightflow.schemas.failure import Cause
from sightflow.schemas.policy import Limits
from sightflow.tasks.media.decoding_bounds import DecodingBounds
from sightflow.tasks.media.video_container import (
    VideoError,
    brief,
    choose_stream,
    display_width,
    open_video,
    video_stream,
)

# Four hours at 300 frames a second, and some.
_MAX_FRAMES: Final = 5_000_000
# Containers that are streams: their pieces are joined as they are, each with times of its own.
_STREAMED: Final = ("mpegts", "mpeg")
# Raw streams have no times, or such as FFmpeg counts for itself and B frames mislead.
_RAW: Final = ("h264", "hevc", "mpegvideo", "m4v")
# Containers that hold decoding times only, or may (H.264 in Matroska as it was in an AVI).
_DECODING_TIMES: Final = ("avi", "asf", "matroska,webm")
# A gap that FFmpeg, too, takes for a jump of the clock in such a container (its -dts_delta_threshold).
_JUMP_SECONDS: Final = 10.0


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """What a video holds, read from its packets.

    `width, height`: of the upright picture in square pixels, after the rotation of the container; `stored`: of the
    frames as they are decoded. `stream`: which stream of the container it is. `counted`: the stream does not say when
    its frames are shown, so frame k is the k-th that the decoder gives from the start. `pts`: the presentation times of
    all frames in the order they are shown, in units of `time_base` seconds; frame k of the video is the k-th of them.
    `keyframes`: indices of the frames that can be decoded alone. Seconds count from the first frame shown.
    """

    width: int
    height: int
    rotation: int
    time_base: float
    pts: npt.NDArray[np.int64]
    keyframes: npt.NDArray[np.int64]
    duration: float
    stream: int
    stored: tuple[int, int]
    counted: bool
    max_pixels: int

    @property
    def frame_count(self) -> int:
        return len(self.pts)

    @property
    def frame_rate(self) -> float:
        """The mean rate, frames a second."""
        return self.frame_count / self.duration if self.duration > 0 else float(self.frame_count)

    @cached_property
    def seconds(self) -> npt.NDArray[np.float64]:
        """When each frame is shown, in seconds from the first."""
        return np.asarray((self.pts - self.pts[0]) * self.time_base, dtype=np.float64)

    def frame_at(self, seconds: float) -> int:
        """The index of the frame that is on the screen at a time."""
        return max(bisect_right(self.seconds, seconds + 1e-9) - 1, 0)


@dataclass
class _Packets:
    """What the packets of a stream say: presentation and decoding times in units of the time base."""

    shown: array[int] = field(default_factory=lambda: array("q"))
    decoded: array[int] = field(default_factory=lambda: array("q"))  # goes on over jumps of the clock
    keys: array[int] = field(default_factory=lambda: array("q"))
    last_length: int = 0  # of the frame shown last
    counted: bool = False


def index_video(path: Path, limits: Limits) -> VideoIndex:
    """Read a video's index by going through its packets once, decoding one frame, or all where none says its time.

    Raises VideoError: `unsupported` (no video stream, unknown codec), `unreadable` (no frame, broken container),
    `too_large` (past the limits on pixels, frames or seconds), `decode` (frames must be counted, and none decodes).
    """
    number = choose_stream(path)
    with open_video(path) as container:
        stream = video_stream(container, number, limits.max_pixels)
        context = stream.codec_context
        _check_pixels(context.width, context.height, limits)
        time_base = float(stream.time_base or 0)
        packets = _read_packets(container, stream)
        pts = np.array(sorted(set(packets.shown)), dtype=np.int64)
        keys = np.array(sorted(set(packets.keys)), dtype=np.int64)
        times = np.array(packets.decoded if packets.counted else pts, dtype=np.int64)
        last = packets.last_length or (int(np.median(np.diff(times))) if len(times) > 1 else 0)
        duration = float((times.max() - times.min() + last) * time_base)
        if duration > limits.max_seconds:
            raise VideoError(Cause.TOO_LARGE, f"{duration:,.0f} s long; the limit is {limits.max_seconds:,.0f} s")
        stored = (int(context.width), int(context.height))
        aspect = stream.sample_aspect_ratio
    if packets.counted:
        numbers = _count_frames(path, number, limits, len(times), duration)
        pts = _times_of(len(numbers), np.sort(times), last)
        keyframes = np.array([k for k, is_key in enumerate(numbers) if is_key], dtype=np.int64)
        duration = float((pts[-1] - pts[0] + last) * time_base)
    else:
        keyframes = np.searchsorted(pts, keys)
    rotation = 0
    if (frame := _first_frame(path, number, limits, DecodingBounds(len(times), duration))) is not None:
        _check_pixels(frame.width, frame.height, limits)
        rotation, stored = int(round(frame.rotation / 90) * 90) % 360, (frame.width, frame.height)
    width, height = display_width(stored[0], aspect), stored[1]
    _check_pixels(width, height, limits)
    if rotation % 180:
        width, height = height, width
    return VideoIndex(
        width, height, rotation, time_base, pts, keyframes, duration,
        number, stored, packets.counted, limits.max_pixels,
    )  # fmt: skip


def _check_pixels(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        size = f"{width:,} x {height:,} pixels"
        raise VideoError(Cause.TOO_LARGE, f"{size}; the limit is {limits.max_pixels:,}")


def _read_packets(container: Any, stream: Any) -> _Packets:
    time_base = float(stream.time_base or 1 / 90_000)
    step = max(round(1 / float(stream.average_rate or stream.base_rate or 25) / time_base), 1)
    streamed = container.format.name in _STREAMED
    gap = round(_JUMP_SECONDS / time_base)
    packets = _Packets(counted=container.format.name in _RAW)
    reordered = not (container.format.name in _DECODING_TIMES and stream.codec_context.has_b_frames)
    before: int | None = None
    offset, latest = 0, -(2**63)
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            pts, decoded = packet.pts, packet.dts if packet.dts is not None else packet.pts
            if before is None:
                time = decoded or 0
            elif decoded is None:
                time = before + step
            else:
                time = decoded + offset
                backwards = before - time
                if backwards > (0 if streamed else round(1 / time_base)) or (streamed and -backwards > gap):
                    packets.counted = True
                    offset = before + step - decoded
                    time = before + step
            before = time if before is None else max(before, time)
            packets.decoded.append(time)
            packets.counted |= pts is None
            pts = time if pts is None else pts
            packets.shown.append(pts)
            reordered |= pts < latest
            if pts >= latest:
                latest, packets.last_length = pts, packet.duration or 0
            if packet.is_keyframe:
                packets.keys.append(pts)
            if len(packets.shown) > _MAX_FRAMES:
                raise VideoError(Cause.TOO_LARGE, f"more than {_MAX_FRAMES:,} frames")
    except av.FFmpegError as error:
        if not packets.shown:
            raise VideoError(Cause.UNREADABLE, f"its packets cannot be read: {brief(error)}") from None
    if not packets.shown:
        raise VideoError(Cause.UNREADABLE, "it holds no frame")
    # B frames that all seem to be shown in the order they are decoded: what is given out as the one is the other.
    packets.counted |= not reordered
    return packets


def _count_frames(path: Path, number: int, limits: Limits, packets: int, duration: float) -> list[bool]:
    """Decode every frame, in the order they are shown, and say of each whether it is a keyframe."""
    bounds = DecodingBounds(packets, duration)
    with open_video(path) as container:
        stream = video_stream(container, number, limits.max_pixels)
        stream.thread_type = "AUTO"
        found = [bool(frame.key_frame) for frame in decoded_frames(container, stream, bounds)]
    if not found:
        raise VideoError(Cause.DECODE, "none of its frames could be decoded")
    return found


def _times_of(count: int, times: npt.NDArray[np.int64], step: int) -> npt.NDArray[np.int64]:
    """Ascending times for so many frames: those of the packets, one a frame, else evenly spread."""
    if count == len(times) and (count == 1 or bool((np.diff(times) > 0).all())):
        return times
    return np.asarray(times[0] + np.arange(count, dtype=np.int64) * max(step, 1), dtype=np.int64)


def decoded_frames(container: Any, stream: Any, bounds: DecodingBounds) -> Any:
    """Decode on from where the container stands; a broken packet is passed over, as players do."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            bounds.packet()
            decoded = packet.decode()
        except av.FFmpegError:
            continue
        for frame in decoded:
            bounds.frame()
            yield frame


def _first_frame(path: Path, number: int, limits: Limits, bounds: DecodingBounds) -> Any:
    """The first frame that can be decoded: its size, and how the container asks it to be turned."""
    with open_video(path) as container:
        return next(decoded_frames(container, video_stream(container, number, limits.max_pixels), bounds), None)
