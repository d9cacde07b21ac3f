"""How long one video may be decoded. FFmpeg cannot be interrupted within a frame: checked between packets."""

from __future__ import annotations

import time
from typing import Final

from sightflow.schemas.failure import Cause
from sightflow.tasks.media.video_container import VideoError

_STALLED_SECONDS: Final = 30.0  # without a frame
_LEAST_SECONDS: Final = 120.0
_TIMES_REALTIME: Final = 4.0  # so many times as long as the video lasts
_TIMES_PACKETS: Final = 3  # seeking decodes some packets again
_MORE_PACKETS: Final = 1000


class DecodingBounds:
    """Counts what the decoding of one video takes, in packets and seconds; raises VideoError past its bounds."""

    def __init__(self, packets: int, duration: float) -> None:
        now = time.monotonic()
        self._packets = _TIMES_PACKETS * packets + _MORE_PACKETS
        self._seconds = _LEAST_SECONDS + _TIMES_REALTIME * duration
        self._deadline = now + self._seconds
        self._stalled = now + _STALLED_SECONDS

    def packet(self) -> None:
        """Another packet is decoded. Raises VideoError `decode` without a frame for long, `too_large` past the end."""
        now = time.monotonic()
        self._packets -= 1
        if now > self._stalled:
            raise VideoError(Cause.DECODE, f"no frame could be decoded in {_STALLED_SECONDS:.0f} s")
        if self._packets < 0:
            raise VideoError(Cause.DECODE, "its frames cannot be decoded, however often it is sought through")
        if now > self._deadline:
            raise VideoError(Cause.TOO_LARGE, f"not decoded within {self._seconds:,.0f} s")

    def frame(self) -> None:
        """Another frame has been decoded."""
        self._stalled = time.monotonic() + _STALLED_SECONDS

    def waited(self, seconds: float) -> None:
        """So long the reader of the frames was busy itself."""
        self._deadline += seconds
        self._stalled += seconds
