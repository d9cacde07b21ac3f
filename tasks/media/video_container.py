"""Opening a video: the container, and which of its streams is the video.

A media object is hostile input: it is opened as a file, never by a name that FFmpeg could take for a playlist or a
protocol, and no decoder is given frames of more pixels than the limit.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import av

from sightflow.schemas.failure import Cause, Failure, Stage
from sightflow.tasks.media.image_formats import media_type, unsupported_format
from sightflow.tasks.media.media_kind import START_BYTES, is_transport_stream, unsupported_container

# Containers that are taken. Playlists (hls, dash, concat) name other files and addresses, and are not among them.
_FORMATS: Final = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,mxf,h264,hevc,ivf"
# A picture among the streams shows itself within so many packets of several streams.
_PROBED_PACKETS: Final = 500
# A stream of fewer pixels than this part of the largest one is a preview of it.
_PREVIEW: Final = 1 / 8


class VideoError(Exception):
    """A video that cannot be read, with its cause."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(cause, message, Stage.DECODE)


def open_video(path: Path) -> Any:
    """Open a video file. Raises VideoError `unsupported` for a known container that is not taken, else `unreadable`."""
    try:
        return _opened(path)
    except av.FFmpegError as error:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
        if is_transport_stream(start):  # one of a few packets is too short for FFmpeg to know it
            with suppress(av.FFmpegError):
                return _opened(path, "mpegts")
        if name := unsupported_container(start):
            raise VideoError(Cause.UNSUPPORTED, f"videos in {name} are not taken") from None
        likely = unsupported_format(start) or media_type(start)[0]
        begins = f"; it begins like {likely}" if likely else ""
        raise VideoError(Cause.UNREADABLE, f"it cannot be opened as a video: {brief(error)}{begins}") from None


def _opened(path: Path, form: str | None = None) -> Any:
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    return av.open(str(path.absolute()), format=form, options=options, metadata_errors="ignore")


def video_stream(container: Any, number: int, max_pixels: int) -> Any:
    """The stream of this index, whose decoder refuses frames of more than `max_pixels` before it takes memory."""
    stream = container.streams[number]
    # Decoders check the coded size, which is the size rounded up to whole blocks.
    stream.codec_context.options = {"max_pixels": str(max_pixels + max_pixels // 8 + 2**16)}
    return stream


def choose_stream(path: Path) -> int:
    """The index of the stream that is the video.

    Attached pictures, streams of one frame and previews (an eighth of the pixels of another, or fewer) come last; of
    the others the one that the container marks as default, then the largest, then the one of more frames.
    Raises VideoError `unsupported`, `unreadable`.
    """
    with open_video(path) as container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "no streams"
            raise VideoError(Cause.UNSUPPORTED, f"it has no video stream, only {kinds}")
        known = [s for s in streams if s.codec_context is not None]
        if not known:
            raise VideoError(Cause.UNSUPPORTED, "its video codec is not known")
        if len(known) == 1:
            return int(known[0].index)
        frames = {s.index: s.frames for s in known}
        if not all(frames.values()):
            frames = _counted(container, known)
        largest = max(_pixels(s) for s in known)

        def rank(stream: Any) -> tuple[bool, bool, bool, int, int]:
            default = bool(stream.disposition & av.stream.Disposition.default)
            moves, whole = frames[stream.index] > 1, _pixels(stream) > largest * _PREVIEW
            return moves, whole, default, _pixels(stream), frames[stream.index]

        return int(max(known, key=rank).index)


def display_width(width: int, aspect: Any) -> int:
    """The width in square pixels of a picture whose pixels are `aspect` (width by height) wide; odd ones count as 1."""
    ratio = float(aspect or 1)
    return max(round(width * ratio), 1) if 0.25 <= ratio <= 4 else width


def brief(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _pixels(stream: Any) -> int:
    return int(stream.codec_context.width * stream.codec_context.height)


def _counted(container: Any, streams: list[Any]) -> Counter[int]:
    """How many frames each stream has among the first packets."""
    counts: Counter[int] = Counter()
    try:
        for packet in container.demux(streams):
            if packet.size:
                counts[packet.stream_index] += 1
            if counts.total() >= _PROBED_PACKETS:
                break
    except av.FFmpegError:
        pass
    return counts
