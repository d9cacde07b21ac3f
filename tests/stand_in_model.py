"""A model for tests whose answer is read from the pixels, so that it can be told whose pixels it saw."""

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from PIL import Image

from sightflow.blocks.models.contract import Availability, Engine, Generated, GenerationRequest, Output, Prompt
from sightflow.blocks.models.systems.florence2 import Florence2
from sightflow.schemas.enrichment import Region, RegionsResult, Result, TextResult
from sightflow.schemas.geometry import Box
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.vision import VisionRequest


class StandIn(Florence2):
    """Captions with the mean colour, or with STAND_IN_SAYS; detects the box of what is dark. Counts every question.

    STAND_IN_SECONDS: how long it takes for a question; STAND_IN_LOG: a file to which each question is appended;
    STAND_IN_MEETS: a folder where it waits for a second process that is as far, before it answers anything;
    STAND_IN_GATE: a file that, while it exists, lets only as many questions of this process pass as it says.
    """

    _block_type_slug = "sightflow-stand-in"
    asked: ClassVar[Counter[tuple[str, str]]] = Counter()

    @classmethod
    def reset(cls) -> None:
        cls.asked.clear()

    def make_engine(self) -> Engine:
        return StandInEngine(self)

    def availability(self) -> Availability:
        return self.open_engine().availability()  # under whatever name it stands in

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        assert isinstance(request.media, DecodedImage)
        if request.enrichment.capability.gives_text:
            return TextResult(text)
        dark = request.media.pixels.convert("L").point(lambda level: 255 if level < 128 else 0)
        box = dark.getbbox()
        return RegionsResult(() if box is None else (Region(prompt.subject or "dark", Box(*map(float, box))),))


class StandInEngine(Engine):
    """Looks at the pixels itself."""

    def __init__(self, system: StandIn) -> None:
        self.system = system

    def availability(self) -> Availability:
        return Availability(True, "a stand-in")

    def weights_digest(self) -> str:
        return f"stand-in@{self.system.revision or 1}"

    def generate(self, batch: Sequence[GenerationRequest]) -> list[Output]:
        requests = list({id(each.request): each.request for each in batch}.values())
        if place := os.environ.get("STAND_IN_MEETS"):
            meet(Path(place))
        time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")) * len(requests))
        if log := os.environ.get("STAND_IN_LOG"):
            with open(log, "a") as file:
                file.writelines(json.dumps([request.uri, request.enrichment.name]) + "\n" for request in requests)
        asked = self.system.asked
        if gate := os.environ.get("STAND_IN_GATE"):
            wait_at(Path(gate), asked.total() + len(requests))
        asked.update((request.uri, request.enrichment.name) for request in requests)
        return [self.answer(each) for each in batch]

    def answer(self, each: GenerationRequest) -> Output:
        assert isinstance(each.request.media, DecodedImage)
        return Generated(os.environ.get("STAND_IN_SAYS") or json.dumps(mean_colour(each.request.media.pixels)))


def meet(place: Path) -> None:
    """Wait until two processes have come here."""
    (place / str(os.getpid())).touch()
    patience = time.monotonic() + 120
    while len(list(place.iterdir())) < 2:
        assert time.monotonic() < patience, "the other process did not come"
        time.sleep(0.01)


def wait_at(gate: Path, asked: int) -> None:
    """Wait while the gate lets no more than fewer questions pass."""
    patience = time.monotonic() + 240
    with suppress(FileNotFoundError):  # it is opened at any moment, also between a look and the next
        while asked > int(gate.read_text()):
            assert time.monotonic() < patience, "the gate was not opened"
            time.sleep(0.02)


def mean_colour(image: Image.Image) -> list[int]:
    return list(image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)))  # type: ignore[arg-type]
