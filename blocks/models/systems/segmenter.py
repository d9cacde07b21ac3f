"""Segmenters: SAM 3, which finds all that a text names, and SAM 2, which cuts out what another model has boxed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from sightflow.blocks.models import weights
from sightflow.blocks.models.contract import Availability, BatchGenerator, LoadedWeights, Prompt
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.region_finder import FRACTIONS, RegionFinder
from sightflow.blocks.models.replies.detections import Detection, write_detections
from sightflow.blocks.models.video.frame_by_frame import frame_requests, merge_frame_replies
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, RegionsResult, Result
from sightflow.schemas.failure import Failure, ModelError
from sightflow.schemas.geometry import ImageTransform
from sightflow.schemas.media import DecodedVideo
from sightflow.schemas.rating import Rating, unrated
from sightflow.schemas.vision import ModelRef, VisionRequest

_CLASSES = {"sam2": "Sam2Model", "sam2_video": "Sam2VideoModel", "sam3": "Sam3Model", "sam3_video": "Sam3VideoModel"}
"""The class in transformers by the `model_type` of the config; weights for videos hold those for images."""
_TRACKING_VERSION = 1
"""Part of the fingerprint of tracks that the model itself follows: another way of asking it makes them stale."""
_SCORE = 0.3
"""The least score of a region, as transformers has it for SAM 3."""


class Segmenter(RegionFinder, OpenWeightsModel):
    """SAM 3 by text (masks, or boxes alone), and SAM 2 by the boxes of another model, `boxes_from`.

    A mask without a pixel is no region, and left out. Of a video each sampled frame is looked at; weights for videos
    follow objects themselves, with others tracks are linked from what is found.
    """

    _block_type_name = "Sightflow segmenter"
    _block_type_slug = "sightflow-segmenter"

    rating = Rating(
        system="segmenter",
        capabilities=unrated(
            Capability.SEGMENTATION,
            Capability.OBJECT_DETECTION,
            Capability.VISUAL_GROUNDING,
            Capability.OBJECT_TRACKING,
        ),
        deployment="medium",
        getting_started="medium",
        weights="open",
        used_by="transformers",
        strength="masks to the pixel",
    )
    memory_gib = 3.0
    default = ModelRef("facebook/sam3", revision="main")

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="float32", description="Of the numbers; half precision moves edges by some pixels."
    )
    threshold: float = Field(default=_SCORE, ge=0, le=1, description="Least score of a region (SAM 3).")
    mask_threshold: float = Field(default=0.5, gt=0, lt=1, description="Least probability of a mask's pixel.")
    boxes_from: dict[str, Any] | None = Field(
        default=None,
        description="SAM 2: the model whose boxes are cut out; in a spec the name of an entry of `models`.",
    )

    _source: VisionModel | None = PrivateAttr(default=None)

    def take_boxes_from(self, source: VisionModel) -> None:
        """Take the boxes that another model finds. Raises ValueError if it does not run here, for what it costs would
        not be told.
        """
        if source.hosted:
            raise ValueError("boxes_from: only models that run here can be asked; take a detector")
        self._source = source

    # --- the weights ----------------------------------------------------------------------------

    def model_type(self) -> str:
        """What the config calls the weights, if they are on this machine; else nothing."""
        if self._config is not None:
            return str(self._config.model_type)
        path = self.local_path()
        return (weights.model_type(path) or "") if path else ""

    @property
    def takes_boxes(self) -> bool:
        """Whether the weights are of SAM 2, which is shown where to look."""
        return self.model_type().startswith("sam2")

    @property
    def weights_class(self) -> str:
        return _CLASSES.get(self.model_type(), "Sam3Model")

    def refuse_another_model(self, path: Path) -> None:
        if weights.model_type(path) not in _CLASSES:
            raise ModelError(f"{self.system}: {self._of_no_family()}")

    def _of_no_family(self) -> str:
        return f"{self.ref.id} holds weights of {self.model_type()!r}; known: {', '.join(_CLASSES)}"

    def availability(self) -> Availability:
        available = super().availability()
        if not available.usable or self._source is None:
            return available
        source = self._source.availability()
        return source if source.usable else Availability(False, f"boxes_from: {source.why}", source.remedy)

    def prepare(self) -> None:
        super().prepare()
        if self._source is not None:
            self._source.prepare()

    def batch_generator(self, weights: LoadedWeights) -> BatchGenerator:
        from sightflow.blocks.models.detection.masks import Least, Sam2Generator, Sam3Generator
        from sightflow.blocks.models.detection.video_tracking import (
            Sam2Tracker,
            Sam3Tracker,
            TrackingGenerator,
            image_model_of,
        )

        least, model = Least(self.threshold, self.mask_threshold), weights.model
        match self.model_type():
            case "sam2":
                return Sam2Generator(weights, model, least)
            case "sam2_video":
                images = Sam2Generator(weights, image_model_of(model), least)
                return TrackingGenerator(weights, images, Sam2Tracker(weights, least))
            case "sam3_video":
                by_text = Sam3Generator(weights, model.detector_model, least)
                return TrackingGenerator(weights, by_text, Sam3Tracker(weights, least))
        return Sam3Generator(weights, model, least)

    # --- what is asked --------------------------------------------------------------------------

    def unsupported_reason(self, enrichment: Enrichment, media_kind: MediaKind) -> str | None:
        if reason := super().unsupported_reason(enrichment, media_kind):
            return reason
        if not (model_type := self.model_type()):
            return None  # nothing is known of it yet; the weights are not here
        if model_type not in _CLASSES:
            return self._of_no_family()
        if not self.wanted(enrichment):
            return f"{self.ref.id} finds what it is asked for; give it `labels`"
        if not self.takes_boxes:
            return "boxes_from: SAM 3 finds by text; leave it out" if self._source else None
        if self._source is None:
            return f"{self.ref.id} cuts out what is in a box; name the model that finds them: boxes_from: NAME"
        if enrichment.capability in (Capability.OBJECT_DETECTION, Capability.VISUAL_GROUNDING):
            return f"{self.ref.id} finds no boxes of its own; ask the model that it takes them from"
        reason = self._source.unsupported_reason(self._box_question(enrichment), MediaKind.IMAGE)
        return f"boxes_from: {reason}" if reason else None

    def follows(self, enrichment: Enrichment, media_kind: MediaKind) -> bool:
        """Whether the model itself follows objects from frame to frame."""
        tracking = media_kind is MediaKind.VIDEO and enrichment.capability is Capability.OBJECT_TRACKING
        return tracking and self.model_type().endswith("_video")

    def why_no_track_masks(self, enrichment: Enrichment, media_kind: MediaKind) -> str | None:
        return None if self.follows(enrichment, media_kind) else super().why_no_track_masks(enrichment, media_kind)

    def runs_per_frame(self, enrichment: Enrichment, media_kind: MediaKind) -> bool:
        return super().runs_per_frame(enrichment, media_kind) and not self.follows(enrichment, media_kind)

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        if self.takes_boxes or self.follows(enrichment, media_kind):
            return (Prompt("; ".join(self.wanted(enrichment))),)
        return tuple(Prompt(label, subject=label) for label in self.wanted(enrichment))

    def prompts_about(self, requests: Sequence[VisionRequest]) -> Sequence[tuple[Prompt, ...] | Failure]:
        """For SAM 2 the boxes that the other model finds in each image, or in each frame of a video."""
        if not self.takes_boxes or self._source is None:
            return super().prompts_about(requests)
        questions = [VisionRequest(r.uri, self._box_question(r.enrichment), r.media) for r in requests]
        apart = [frame_requests(q, q.media) if isinstance(q.media, DecodedVideo) else [q] for q in questions]
        replies = iter(self._source.run([each for frames in apart for each in frames]))
        prompts = []
        for question, frames in zip(questions, apart, strict=True):
            given = [next(replies) for _ in frames]
            video = question.media if isinstance(question.media, DecodedVideo) else None
            reply = merge_frame_replies(question, video, given) if video else given[0]
            prompts.append(self._prompts_of(question, reply.outcome))
        return prompts

    def _prompts_of(self, question: VisionRequest, outcome: object) -> tuple[Prompt, ...] | Failure:
        if isinstance(outcome, Failure):
            return Failure(outcome.cause, f"boxes_from: {outcome.message}", raw_reply=outcome.raw_reply)
        regions = outcome.regions if isinstance(outcome, RegionsResult) else ()
        media = question.media
        whole = ImageTransform.whole(media.width, media.height)
        indices = media.indices if isinstance(media, DecodedVideo) else ()
        numbers: dict[int | None, int] = {index: number for number, index in enumerate(indices, start=1)}
        boxes = [
            Detection(
                each.label, FRACTIONS.from_pixels(each.box, whole), each.score, frame=numbers.get(each.frame_index)
            )
            for each in regions
        ]
        return (Prompt(write_detections(boxes)),) if boxes else ()

    def _box_question(self, enrichment: Enrichment) -> Enrichment:
        """What the other model is asked, for what is to be cut out: detection, or grounding if that is all it does."""
        assert self._source is not None
        if self._source.rating.of(Capability.OBJECT_DETECTION) != 0:
            return Enrichment(capability=Capability.OBJECT_DETECTION, labels=self.wanted(enrichment))
        return Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=self.wanted(enrichment))

    def generation_settings(self) -> dict[str, Any]:
        settings = super().generation_settings() | {"thresholds": [self.threshold, self.mask_threshold]}
        if self._source is None:
            return settings
        question = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("x",))
        return settings | {"boxes_from": self._source.recipe(question, MediaKind.IMAGE)}

    def recipe(self, enrichment: Enrichment, media_kind: MediaKind) -> str:
        recipe = super().recipe(enrichment, media_kind)
        if not self.follows(enrichment, media_kind):
            return recipe
        return hashlib.sha256(f"{recipe} followed {_TRACKING_VERSION}".encode()).hexdigest()[:16]

    # --- what is answered -----------------------------------------------------------------------

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        if not isinstance(request.media, DecodedVideo):
            return super().parse(request, prompt, text)
        from sightflow.blocks.models.detection.video_tracking import read_tracks

        return read_tracks(text, request.media, self.box_format)
