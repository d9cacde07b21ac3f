"""A system that finds regions and writes no text: detectors, segmenters, and such models of one's own."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import model_validator

from sightflow.blocks.models.contract import Prompt
from sightflow.blocks.models.replies.detections import read_detections
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, Region, RegionsResult, Result
from sightflow.schemas.geometry import BoxFormat
from sightflow.schemas.vision import VisionRequest

FRACTIONS = BoxFormat(scale=1.0, quantum=0.05)
"""Fractions of the image seen. A detector gives a centre and a size, by which what the edge cuts off is often given
whole: a twentieth of the side may lie outside, and is clipped."""


class RegionFinder(VisionModel):
    """Finds labelled boxes, with or without masks, in one image at a time.

    Of a video each sampled frame is looked at, and what is found is linked into tracks where tracks are asked for. Its
    engine replies with `replies.detections.write_detections`.
    """

    box_format = FRACTIONS
    media_kinds = frozenset(MediaKind)
    supports_custom_prompt: ClassVar[bool] = False
    one_label_a_prompt: ClassVar[bool] = False
    """Whether each label is asked about by itself."""

    @model_validator(mode="after")
    def _runs_here(self) -> Self:
        if getattr(self, "engine", "local") != "local":
            raise ValueError("engine: only `local` can run it")
        return self

    @staticmethod
    def wanted(enrichment: Enrichment) -> tuple[str, ...]:
        """What is looked for: labels or phrases; nothing, if it is whatever the model knows."""
        return enrichment.phrases if enrichment.capability is Capability.VISUAL_GROUNDING else enrichment.labels

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        wanted = self.wanted(enrichment)
        if self.one_label_a_prompt:
            return tuple(Prompt(label, subject=label) for label in wanted)
        return (Prompt("; ".join(wanted)),)

    def runs_per_frame(self, enrichment: Enrichment, media_kind: MediaKind) -> bool:
        return media_kind is MediaKind.VIDEO

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        transform = self.image_transform(request)
        return RegionsResult(
            tuple(
                Region(each.label, self.box_format.to_pixels(each.box, transform), each.score, each.mask)
                for each in read_detections(text)
            )
        )
