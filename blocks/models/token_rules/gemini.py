"""Gemini: images by resolution (3 and later) or by tiles (2.5); a video file by its frames and the sound's seconds.

https://ai.google.dev/gemini-api/docs/media-resolution, /tokens and /video-understanding, as read in November 2026.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sightflow.blocks.models.image_sizes import Size

SOUND_TOKENS = 32
"""A second of sound."""
_TILE_TOKENS = 258
_SMALL_SIDE = 384  # an image within it is one tile
_MOST_TILE_SIDE = 768
_LEAST_TILE_SIDE = 256


@dataclass(frozen=True)
class Resolutions:
    """From Gemini 3 on: an image, and a frame of a video file, has as many tokens as the resolution says, whatever its
    size. `image`, `frame`: by resolution, "" for the one that counts where none is asked for.
    """

    image: Mapping[str, int]
    frame: Mapping[str, int]

    def image_tokens(self, size: Size, resolution: str = "") -> int:
        """The tokens of an image."""
        return self.image[resolution]


@dataclass(frozen=True)
class TiledImages:
    """Gemini 2.5: an image within 384 pixels is one tile, a larger one as many as its short side says: tiles have two
    thirds of it, between 256 and 768 pixels. Low and medium resolution make any image one of so many tokens.
    """

    image: Mapping[str, int]
    frame: Mapping[str, int]

    def image_tokens(self, size: Size, resolution: str = "") -> int:
        """The tokens of an image of this size."""
        if resolution in self.image:
            return self.image[resolution]
        if max(size) <= _SMALL_SIDE:
            return _TILE_TOKENS
        side = min(_MOST_TILE_SIDE, max(_LEAST_TILE_SIDE, math.floor(min(size) / 1.5)))
        return _TILE_TOKENS * math.ceil(size[0] / side) * math.ceil(size[1] / side)


GEMINI_3 = Resolutions(
    image={"": 1120, "low": 280, "medium": 560, "high": 1120},
    frame={"": 70, "low": 70, "medium": 70, "high": 280},
)
# A frame has 258 tokens and its time stamp 5: 263 a second at one frame a second. Another page says 70.
GEMINI_2_5 = TiledImages(image={"low": 64, "medium": 256}, frame={"": 263, "low": 66, "medium": 263, "high": 263})


def video_tokens(rule: Resolutions | TiledImages, frames: int, resolution: str = "") -> int:
    """The tokens of the frames that are taken of a video file, without its sound."""
    return frames * rule.frame[resolution]


def sound_tokens(seconds: float) -> int:
    """The tokens of so much sound."""
    return math.ceil(seconds * SOUND_TOKENS)
