"""OpenAI on loopback with a meter of its own: what it charges, for which picture, and that it never passes a cap."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from tests.loopback.openai_api import OpenAIOnLoopback
from tests.loopback.server import Behaviour, Received, Say

Pixel = tuple[int, int, int]


class MeteredOpenAI(OpenAIOnLoopback):
    """Charges every answer when it is made, whether or not anybody gets it, by the prices of gpt-4o: US dollars 2.50
    and 10 a million tokens. `cap`: nanodollars that the sum must never pass; `highest` by how far it has come.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(behaviour)
        self.charged: Counter[Pixel] = Counter()
        self.times: Counter[Pixel] = Counter()
        self.total = 0
        self._metering = threading.Lock()

    def bill(self, request: Received, said: Say) -> tuple[int, int]:
        """A small picture is one tile: 85 + 170."""
        return 255 * len(request.images) + len("".join(request.texts)) // 3, max(1, len(said.text) // 4)

    def answer(self, request: Received, said: Say, input_tokens: int, output_tokens: int) -> Any:
        cost = input_tokens * 2_500 + output_tokens * 10_000
        with self._metering:
            self.charged[pixel(request)] += cost
            self.times[pixel(request)] += 1
            self.total += cost
        return super().answer(request, said, input_tokens, output_tokens)


def pixel(request: Received) -> Pixel:
    """By which a picture is told from others."""
    red, green, blue = request.images[0].getpixel((0, 0))
    return red, green, blue
