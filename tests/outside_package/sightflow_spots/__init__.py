"""A system in a package of its own: finds the dark spots of an image. Nothing else is to be written."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from pydantic import Field
from scipy import ndimage

from sightflow.blocks.models.own_detector import Detection, OwnDetector
from sightflow.schemas.capability import Capability
from sightflow.schemas.rating import Rating, unrated
from sightflow.schemas.vision import ModelRef


class Spots(OwnDetector):
    """Finds what is darker than a level, and calls it by the first label that is asked for."""

    rating = Rating(
        system="spots",
        capabilities=unrated(Capability.OBJECT_DETECTION, Capability.OBJECT_TRACKING),
        deployment="easy",
        getting_started="fast",
        weights="open",
        strength="nothing to download",
    )
    default = ModelRef("spots", revision="1.2", licence="mit", commercial_use="yes")

    level: int = Field(default=128, ge=0, le=255, description="What is darker is a spot.")

    def detect(self, images: Sequence[Image.Image], labels: Sequence[str]) -> list[list[Detection]]:
        return [self._spots(image, labels[0] if labels else "spot") for image in images]

    def _spots(self, image: Image.Image, label: str) -> list[Detection]:
        dark = np.asarray(image.convert("L")) < self.level
        numbered, _ = ndimage.label(dark)
        places = ndimage.find_objects(numbered)
        return [Detection(label, (xs.start, ys.start, xs.stop, ys.stop), 0.9) for ys, xs in places]
