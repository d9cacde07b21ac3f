"""Videos with a red and a green rectangle on noise, a detector that finds just these, and segmenters asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sightflow.blocks.models.own_detector import Detection, OwnDetector
from sightflow.blocks.models.registry import open_model
from sightflow.blocks.models.systems.segmenter import Segmenter
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment, TracksResult
from sightflow.schemas.media import DecodedVideo
from sightflow.schemas.rating import Rating, unrated
from sightflow.schemas.vision import ModelRef, VisionReply
from tests.tiny_models.families import noisy_video

RED, GREEN = (250, 10, 10), (10, 250, 10)

LABELS = ("red box", "person")
TRACK = Enrichment(capability=Capability.OBJECT_TRACKING, labels=LABELS)

Place = tuple[int, int, int, int]
"""A box in whole pixels: left, top, right, bottom."""


class Marks(OwnDetector):
    """Finds what is red, the first label, and what is green, the second."""

    rating = Rating(
        system="marks",
        capabilities=unrated(Capability.OBJECT_DETECTION),
        deployment="easy",
        getting_started="fast",
        weights="open",
        strength="exact",
    )
    default = ModelRef("marks", revision="1")
    fails: bool = False

    def detect(self, images: Sequence[Image.Image], labels: Sequence[str]) -> list[list[Detection]]:
        if self.fails:
            raise RuntimeError("it is broken")
        return [self._marks(np.asarray(image), labels) for image in images]

    def _marks(self, pixels: Any, labels: Sequence[str]) -> list[Detection]:
        found = []
        for label, colour in zip(labels, (RED, GREEN), strict=False):
            ys, xs = np.nonzero((pixels == colour).all(axis=2))
            if len(xs):
                found.append(Detection(label, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), 0.9))
        return found


def marked(red: Sequence[Place | None], green: Sequence[Place | None], larger: int = 1, seed: int = 0) -> DecodedVideo:
    """A noisy video with a red and a green rectangle in some of its frames; its original is `larger` times as large."""
    video = noisy_video(len(red), seed=seed)
    for image, *places in zip(video.frames, red, green, strict=True):
        for place, colour in zip(places, (RED, GREEN), strict=True):
            if place:
                image.paste(colour, place)
    width, height = larger * video.width, larger * video.height
    facts = (width, height, video.duration, video.frame_rate, video.sha256)
    return DecodedVideo(video.frames, video.indices, video.seconds, *facts)


LEFT = [(3 + k, 8, 19 + k, 28) for k in range(6)]
RIGHT = [(36, 5 + k, 52, 25 + k) for k in range(6)]


def opened(folder: Path, **settings: Any) -> Segmenter:
    """A segmenter with the weights in a folder, asked for whatever it finds; SAM 2 gets the boxes of `Marks`."""
    model = open_model("segmenter", {"id": str(folder), "device": "cpu", "threshold": 0.02} | settings)
    assert isinstance(model, Segmenter)
    if model.takes_boxes:
        model.take_boxes_from(Marks())
    model.prepare()
    return model


def tracks(reply: VisionReply) -> TracksResult:
    assert isinstance(reply.outcome, TracksResult), reply.outcome
    return reply.outcome
