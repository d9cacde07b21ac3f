"""Videos: an index of every frame made without decoding, and exactly the frames that are asked for.

A media object is hostile input: it is opened as a file, never by a name that FFmpeg could take for a playlist
or a protocol, and its size, length and pixels are checked before a frame is decoded.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from sightflow.schemas.enrichment import FrameSampling
from sightflow.schemas.failure import Cause, Failure, Stage
from sightflow.schemas.spec import Limits

# Containers that are taken. Playlists (hls, dash, concat) name other files and addresses, and are not among them.
_FORMATS: Final = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,h264,hevc,ivf"
# A seek fills the decoder anew; so many frames are decoded on the way rather than that.
_WORTH_A_SEEK: Final = 12


class VideoError(Exception):
    """A video that cannot be read, with its cause."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(cause, message, Stage.DECODE)


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """What a video holds, read from its packets without decoding a frame.

    `width, height`: of the upright image, after the rotation of the container. `pts`: the presentation times of all
    frames in the order they are shown, in units of `time_base` seconds; frame k of the video is the k-th of them.
    `keyframes`: indices of the frames that can be decoded alone. Seconds count from the first frame shown.
    """

    container: str
    codec: str
    width: int
    height: int
    rotation: int
    time_base: float
    pts: npt.NDArray[np.int64]
    keyframes: npt.NDArray[np.int64]
    duration: float

    @property
    def frame_count(self) -> int:
        return len(self.pts)

    @property
    def frame_rate(self) -> float:
        """The mean rate, frames a second."""
        return self.frame_count / self.duration if self.duration > 0 else float(self.frame_count)

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """When each frame is shown, in seconds from the first."""
        return np.asarray((self.pts - self.pts[0]) * self.time_base, dtype=np.float64)

    def frame_at(self, seconds: float) -> int:
        """The index of the frame that is on the screen at a time."""
        return max(bisect_right(self.seconds, seconds + 1e-9) - 1, 0)


def index_video(path: Path, limits: Limits) -> VideoIndex:
    """Read a video's index by going through its packets once, decoding only one frame (for its rotation).

    Raises VideoError: `unsupported` (no video stream, unknown codec), `unreadable` (no frame, broken container),
    `too_large` (past the limits on pixels or seconds).
    """
    with _opened(path) as container:
        stream = _video_stream(container)
        context = stream.codec_context
        if context.width * context.height > limits.max_pixels:
            size = f"{context.width:,} x {context.height:,} pixels"
            raise VideoError(Cause.TOO_LARGE, f"{size}; the limit is {limits.max_pixels:,}")
        time_base = float(stream.time_base or 0)
        shown: list[int] = []
        keys: list[int] = []
        lengths: list[int] = []
        counted = 0
        try:
            for packet in container.demux(stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                # Streams without times (raw H.264, some AVI) are counted at the nominal rate.
                pts = packet.pts if packet.pts is not None else _nominal(counted, stream)
                counted += 1
                shown.append(pts)
                lengths.append(packet.duration or 0)
                if packet.is_keyframe:
                    keys.append(pts)
        except av.FFmpegError as error:
            if not shown:
                raise VideoError(Cause.UNREADABLE, f"its packets cannot be read: {_brief(error)}") from None
        if not shown:
            raise VideoError(Cause.UNREADABLE, "it holds no frame")
        pts = np.array(sorted(set(shown)), dtype=np.int64)
        last = lengths[int(np.argmax(shown))] or (int(np.median(np.diff(pts))) if len(pts) > 1 else 0)
        duration = float((pts[-1] - pts[0] + last) * time_base)
        if duration > limits.max_seconds:
            raise VideoError(Cause.TOO_LARGE, f"{duration:,.0f} s long; the limit is {limits.max_seconds:,.0f} s")
        keyframes = np.searchsorted(pts, np.array(sorted(set(keys)), dtype=np.int64))
        rotation = _rotation(path)
        width, height = (context.width, context.height)
        if rotation % 180:
            width, height = height, width
        return VideoIndex(
            container.format.name, context.name, width, height, rotation, time_base, pts, keyframes, duration
        )


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
    """Yield `(frame index, upright RGB image)` for the wanted indices, ascending, one at a time.

    Seeks where a keyframe lies ahead, decodes on where that is nearer. A frame that the decoder cannot give is
    left out. `longest_side`: scale images down to it. Raises VideoError `decode` if it can give none.
    """
    found = 0
    with _opened(path) as container:
        stream = _video_stream(container)
        stream.thread_type = "AUTO"
        frames: Iterator[tuple[int, Any]] | None = None
        current: tuple[int, Any] | None = None
        for target in sorted(set(wanted)):
            position = current[0] if current else -1
            if frames is None or _keyframe_before(index, target) > position + _WORTH_A_SEEK:
                frames, current = _decoded_from(container, stream, index, target), None
            while current is None or current[0] < target:
                current = next(frames, None)
                if current is None:
                    break
            if current is None:
                frames = None  # the stream ended, or broke, before it
            elif current[0] == target:
                found += 1
                yield target, _image(current[1], index, longest_side)
    if wanted and not found:
        raise VideoError(Cause.DECODE, f"none of {len(wanted)} frames could be decoded")


def _decoded_from(container: Any, stream: Any, index: VideoIndex, target: int) -> Iterator[tuple[int, Any]]:
    """Seek to where `target` can be decoded from, and decode on to the end."""
    before = max(int(np.searchsorted(index.keyframes, target, side="right")) - 1, 0)
    aims = [int(index.pts[index.keyframes[k]]) for k in (before, before - 2) if 0 < k < len(index.keyframes)]
    start = int(index.pts[0])
    # A container may seek by decoding times and land behind what is wanted; then an earlier aim is tried, at
    # last one before the start, which transport streams need.
    for aim in (*aims, start, start - round(10 / index.time_base)):
        try:
            container.seek(aim, stream=stream, backward=True, any_frame=False)
        except av.FFmpegError:
            continue
        frames = _decoded(container, stream, index)
        first = next(frames, None)
        if first is not None and first[0] <= target:
            yield first
            yield from frames
            return


def _decoded(container: Any, stream: Any, index: VideoIndex) -> Iterator[tuple[int, Any]]:
    """Decode on from where the container stands; a broken packet is passed over, as players do."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            decoded = packet.decode()
        except av.FFmpegError:
            continue
        for frame in decoded:
            if frame.pts is None or frame.is_corrupt:
                continue
            number = int(np.searchsorted(index.pts, frame.pts))
            if number < index.frame_count and index.pts[number] == frame.pts:
                yield number, frame


def _keyframe_before(index: VideoIndex, frame: int) -> int:
    before = int(np.searchsorted(index.keyframes, frame, side="right")) - 1
    return int(index.keyframes[before]) if before >= 0 else 0


def _image(frame: Any, index: VideoIndex, longest_side: int | None) -> Image.Image:
    width, height = frame.width, frame.height
    if longest_side and max(width, height) > longest_side:
        scale = longest_side / max(width, height)
        width, height = max(round(width * scale), 1), max(round(height * scale), 1)
    pixels = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
    if index.rotation:
        pixels = np.ascontiguousarray(np.rot90(pixels, k=index.rotation // 90))
    return Image.fromarray(pixels)


def _opened(path: Path) -> Any:
    try:
        return av.open(
            str(path.absolute()),
            options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
            metadata_errors="ignore",
        )
    except av.FFmpegError as error:
        raise VideoError(Cause.UNREADABLE, f"it cannot be opened as a video: {_brief(error)}") from None


def _video_stream(container: Any) -> Any:
    # A cover image is a "video" of one attached image.
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "no streams"
        raise VideoError(Cause.UNSUPPORTED, f"it has no video stream, only {kinds}")
    stream = streams[0]
    if stream.codec_context is None:
        raise VideoError(Cause.UNSUPPORTED, "its video codec is not known")
    return stream


def _rotation(path: Path) -> int:
    """Degrees counter-clockwise, 0, 90, 180 or 270, that the container asks the image to be turned by."""
    with _opened(path) as container:
        try:
            frame = next(container.decode(_video_stream(container)), None)
        except av.FFmpegError:
            return 0
        return 0 if frame is None else int(round(frame.rotation / 90) * 90) % 360


def _nominal(count: int, stream: Any) -> int:
    rate = float(stream.average_rate or stream.base_rate or 25)
    return round(count / rate / float(stream.time_base or 1 / 90_000))


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
