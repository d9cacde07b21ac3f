"""OpenAI: images by tiles of 512 pixels or by patches of 32; a video is its frames, each an image.

https://developers.openai.com/api/docs/guides/images-vision ("Calculating costs"), as read in November 2026.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sightflow.blocks.models.image_sizes import Size, fit_within

_PATCH = 32
_TILE = 512
_ROUNDING = 1e-6  # what a product of floats may be off a whole number of patches
LOW_SIDE = 512
"""The longest side, in pixels, at which an image of low detail is seen."""


@dataclass(frozen=True)
class Tiles:
    """An image is fitted into 2048 x 2048, then to a short side of 768 pixels: tokens at all, and for each tile of 512.

    Of low detail it costs the tokens at all alone.
    """

    at_all: int
    each: int

    def sent_size(self, size: Size, detail: str) -> Size:
        """The size at which the vendor looks at an image."""
        return fit_within(size, LOW_SIDE) if detail == "low" else fit_within(size, 2048, 768)

    def tokens(self, size: Size, detail: str) -> int:
        """The tokens of an image of this size, whatever size it is then seen at."""
        if detail == "low":
            return self.at_all
        across, down = (math.ceil(side / _TILE) for side in self.sent_size(size, detail))
        return self.at_all + self.each * across * down


@dataclass(frozen=True)
class Budget:
    """The most patches of an image, and its longest side in pixels; None: any."""

    patches: int
    side: int | None = None


@dataclass(frozen=True)
class Patches:
    """An image costs its patches of 32 pixels times `each`; one of more than `high` allows is shrunk to whole patches.

    `original`: what that detail allows; None where an id does not know it, and looks as for `high`.
    """

    each: float
    high: Budget
    original: Budget | None = None

    def sent_size(self, size: Size, detail: str) -> Size:
        """The size at which the vendor looks at an image, in whole pixels that cover as many patches."""
        if detail == "low":
            return _within(size, LOW_SIDE)
        budget = self.original if detail == "original" and self.original else self.high
        width, height = _within(size, budget.side) if budget.side else size
        if _patches(width) * _patches(height) <= budget.patches:
            return width, height
        # Shrunk to the area of so many patches, then until one side is a whole number of them.
        shrink = math.sqrt(_PATCH**2 * budget.patches / (width * height))
        across, down = (max(1.0, side * shrink / _PATCH) for side in (width, height))
        shrink *= min(math.floor(across + _ROUNDING) / across, math.floor(down + _ROUNDING) / down)
        return _whole(width * shrink), _whole(height * shrink)

    def tokens(self, size: Size, detail: str) -> int:
        """The tokens of an image of this size, whatever size it is then seen at."""
        across, down = map(_patches, self.sent_size(size, detail))
        return math.ceil(across * down * self.each - _ROUNDING)


def _within(size: Size, side: int) -> Size:
    """A size shrunk to a longest side."""
    scale = min(1.0, side / max(size))
    return _whole(size[0] * scale), _whole(size[1] * scale)


def _whole(pixels: float) -> int:
    return max(1, math.floor(pixels + _ROUNDING))


def _patches(side: int) -> int:
    return math.ceil(side / _PATCH)


_HIGH_1536 = Budget(1536, 2048)
_HIGH_2500 = Budget(2500, 2048)
_ANY_SIZE = Budget(30_000)  # not resized; an image of more patches is refused with 400

GPT_4O = Tiles(85, 170)
GPT_4O_MINI = Tiles(2833, 5667)
GPT_5 = Tiles(70, 140)
O_SERIES = Tiles(75, 150)
MINI = Patches(1.62, _HIGH_1536)
NANO = Patches(2.46, _HIGH_1536)
O4_MINI = Patches(1.72, _HIGH_1536)
# The guide names no multiplier for these; users were charged 1.2 for GPT-5.2 (community.openai.com/t/1372291) and 1.2
# is known for GPT-5.6, so what lies between is taken to have it too, and so is GPT-6.
GPT_5_2 = Patches(1.2, _HIGH_1536)
GPT_5_4 = Patches(1.2, _HIGH_2500, original=Budget(10_000, 6000))
GPT_5_6 = Patches(1.2, _HIGH_2500, original=_ANY_SIZE)
GPT_6 = GPT_5_6
