"""A model that holds its device for a fixed time an image and uses no CPU, as one on a GPU does."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from pydantic import PrivateAttr

from sightflow.blocks.models.systems.florence2 import Florence2
from sightflow.blocks.models.vision_model import Availability, Generated
from sightflow.schemas.enrichment import Result, TextResult
from sightflow.schemas.vision import VisionReply, VisionRequest


class Device(Florence2):
    """Captions with the picture's size, after 20 ms an image; takes Florence-2's place in `blocks.systems`."""

    _block_type_slug = "sightflow-benchmark-device"
    seconds_an_image: float = 0.020
    _on_the_device: Any = PrivateAttr(default_factory=threading.Lock)

    def availability(self) -> Availability:
        return Availability(True, "a stand-in")

    def weights_digest(self) -> str:
        return "device@1"

    def prepare(self) -> None:
        pass

    def _answer(self, requests: Sequence[VisionRequest]) -> list[VisionReply]:
        with self._on_the_device:
            time.sleep(self.seconds_an_image * len({request.uri for request in requests}))
        return [self.reply(request, [(p, Generated("x")) for p in self._prompts(request)]) for request in requests]

    def _prompts(self, request: VisionRequest) -> tuple[object, ...]:
        return tuple(self.prompts(request.enrichment, request.media.kind))

    def parse(self, request: VisionRequest, prompt: object, text: str) -> Result:
        return TextResult(f"{request.media.width} by {request.media.height}")


class Light(Device):
    """Answers at once."""

    _block_type_slug = "sightflow-benchmark-light"
    seconds_an_image: float = 0.0
