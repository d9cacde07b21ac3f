"""Qwen at DashScope: a token for each cell of the resized image, and two around it; of a list of frames, for each pair.

https://www.alibabacloud.com/help/en/model-studio/vision ("Token calculation"), as read in November 2026.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sightflow.blocks.models.image_sizes import Size, on_grid

LEAST_FRAMES = 4
"""Of a list of frames."""
_AROUND = 2  # <|vision_bos|> and <|vision_eos|>
_FRAMES_TOGETHER = 2
_LEAST_CELLS = 4


@dataclass(frozen=True)
class Cells:
    """`side`: of a cell, in pixels. `most`: cells of an image; `most_high`: with vl_high_resolution_images.

    `frame_most`: cells of a frame of a video; `video_most`: of all its frames, where one is of a pair.
    """

    side: int
    most: int
    most_high: int = 16_384
    frame_most: int = 768
    video_most: int = 65_536

    def sent_size(self, size: Size, high: bool = False) -> Size:
        """The size that an image is resized to."""
        return self._resized(size, self.most_high if high else self.most)

    def image_tokens(self, size: Size, high: bool = False) -> int:
        """The tokens of an image of this size."""
        return self._cells(self.sent_size(size, high)) + _AROUND

    def frame_size(self, size: Size, frames: int) -> Size:
        """The size that each of so many frames of a video is resized to."""
        # A bound in pixels that need not be whole cells.
        share = self.video_most / max(1, frames) * _FRAMES_TOGETHER
        most = max(min(float(self.frame_most), share), _LEAST_CELLS * 1.05)
        return self._resized(size, most)

    def video_tokens(self, size: Size, frames: int) -> int:
        """The tokens of a list of so many frames of this size."""
        return math.ceil(frames / _FRAMES_TOGETHER) * self._cells(self.frame_size(size, frames)) + _AROUND

    def _resized(self, size: Size, most: float) -> Size:
        cell = self.side**2
        return on_grid(size, self.side, _LEAST_CELLS * cell, int(most * cell))

    def _cells(self, size: Size) -> int:
        return (size[0] // self.side) * (size[1] // self.side)


QWEN_3 = Cells(32, most=2560)
QWEN_3_VL_PLUS = Cells(32, most=2560, frame_most=640, video_most=131_072)
QWEN_2_5 = Cells(28, most=1280)
QWEN_2_5_LATE = Cells(32, most=1280)
"""The last snapshots of that line have the cells of the next, and its own number of them."""
