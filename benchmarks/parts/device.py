"""A model that holds its device for a fixed time an image and uses no CPU, as one on a GPU does."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from sightflow.blocks.models.contract import Availability, Engine, Generated, GenerationRequest, Output
from sightflow.blocks.models.systems.florence2 import Florence2
from sightflow.schemas.enrichment import Result, TextResult
from sightflow.schemas.vision import VisionRequest


class Device(Florence2):
    """Captions with the picture's size, after 20 ms an image; takes Florence-2's place in the registry."""

    _block_type_slug = "sightflow-benchmark-device"
    seconds_an_image: float = 0.020

    def make_engine(self) -> Engine:
        return _Sleeping(self.seconds_an_image)

    def parse(self, request: VisionRequest, prompt: object, text: str) -> Result:
        return TextResult(f"{request.media.width} by {request.media.height}")


class _Sleeping(Engine):
    """Holds one device, an image after the other."""

    def __init__(self, seconds_an_image: float) -> None:
        self._seconds = seconds_an_image
        self._on_the_device = threading.Lock()

    def availability(self) -> Availability:
        return Availability(True, "a stand-in")

    def weights_digest(self) -> str:
        return "device@1"

    @property
    def max_calls(self) -> int:
        return 2  # as one on a GPU has: a batch is preprocessed while another is on the device

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Output]:
        with self._on_the_device:
            time.sleep(self._seconds * len({each.request.uri for each in requests}))
        return [Generated("x") for _ in requests]


class Light(Device):
    """Answers at once."""

    _block_type_slug = "sightflow-benchmark-light"
    seconds_an_image: float = 0.0
