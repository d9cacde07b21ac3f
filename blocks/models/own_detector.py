"""A detector of one's own: a class with one method, `detect`. Videos, tracks, batches and failures are inherited."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from PIL import Image

from sightflow.blocks.models.contract import Availability, Engine, Generated, GenerationRequest, Output, ReplyError
from sightflow.blocks.models.engines.bisection import bisect_failures
from sightflow.blocks.models.region_finder import RegionFinder
from sightflow.blocks.models.replies.detections import Detection, write_detections
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.failure import Cause, Failure
from sightflow.schemas.media import DecodedImage, Media

__all__ = ["Detection", "OwnDetector"]


class OwnDetector(RegionFinder):
    """A detector that computes in this process by code of its own.

    A subclass states its `rating` and its `default` (which weights, under which licence), and has `detect`; settings
    are fields of it. All of them are part of the fingerprint of a row.
    """

    @abstractmethod
    def detect(self, images: Sequence[Image.Image], labels: Sequence[str]) -> Sequence[Sequence[Detection]]:
        """What is found in each image (RGB, upright), in their order.

        `labels`: what is looked for, or nothing for all that is known. A box is `x_min, y_min, x_max, y_max` in pixels
        of the image given, which may be smaller than the original; so is a mask, a COCO RLE (`encode_mask`).
        Raises ReplyError for what cannot be asked of it, any other exception for images it cannot deal with.
        """

    def load_weights(self) -> None:
        """Load what `detect` needs, once, before it is first called. Raises ModelError that says what to do."""

    def make_engine(self) -> Engine:
        return _OwnCode(self)

    def generation_settings(self) -> dict[str, Any]:
        own = {name for name in type(self).model_fields if name not in VisionModel.model_fields}
        return self.model_dump(mode="json", include=own)


class _OwnCode(Engine):
    """Calls `detect`: images that are asked the same together, halved where it raises."""

    def __init__(self, model: OwnDetector) -> None:
        self._model = model
        self._loaded = False

    def availability(self) -> Availability:
        return Availability(True, "code of its own")

    def weights_digest(self) -> str:
        return self._model.ref.pinned

    def load(self) -> None:
        if not self._loaded:
            self._model.load_weights()
            self._loaded = True

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Output]:
        by_labels: dict[tuple[str, ...], list[int]] = {}
        for index, each in enumerate(requests):
            by_labels.setdefault(self._model.wanted(each.request.enrichment), []).append(index)
        made: dict[int, Output] = {}
        for labels, indices in by_labels.items():

            def attempt(part: Sequence[int], labels: tuple[str, ...] = labels) -> list[Output]:
                return self._detected([requests[index] for index in part], labels)

            made |= zip(indices, bisect_failures(indices, attempt, _to_failure), strict=True)
        return [made[index] for index in range(len(requests))]

    def _detected(self, batch: Sequence[GenerationRequest], labels: tuple[str, ...]) -> list[Output]:
        images = [each.request.media.pixels for each in batch if isinstance(each.request.media, DecodedImage)]
        found = self._model.detect(images, labels)
        if len(found) != len(images):
            raise ValueError(f"detect gave {len(found)} answers about {len(images)} images")
        return [
            Generated(write_detections(_of_the_original(one, image.size, each.request.media) for one in detections))
            for each, image, detections in zip(batch, images, found, strict=True)
        ]


def _of_the_original(detection: Detection, size: tuple[int, int], original: Media) -> Detection:
    """What was found in an image of a size: its box in fractions, its mask of the original's size."""
    x_min, y_min, x_max, y_max = map(float, detection.box)
    width, height = size
    box = (x_min / width, y_min / height, x_max / width, y_max / height)
    mask = detection.mask
    if mask is not None and size != (original.width, original.height):
        from sightflow.schemas.masks import decode_mask, encode_mask, enlarged

        mask = encode_mask(enlarged(decode_mask(mask, width, height), original.width, original.height))
    return Detection(str(detection.label), box, detection.score, mask)


def _to_failure(error: Exception, part: Sequence[int]) -> Failure:
    cause = error.cause if isinstance(error, ReplyError) else Cause.MODEL
    return Failure(cause, f"{type(error).__name__}: {error}"[:500])
