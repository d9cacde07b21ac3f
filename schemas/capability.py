"""What can be asked of a media object, and of which kinds of media."""

from __future__ import annotations

import re
from enum import StrEnum


class MediaKind(StrEnum):
    """What a media object is, decided by its bytes and not by its name."""

    IMAGE = "image"
    VIDEO = "video"


class Capability(StrEnum):
    """What is asked. The value is the slug used in specs, partitions and columns."""

    IMAGE_CAPTIONING = "image_captioning"
    VISUAL_QUESTION_ANSWERING = "visual_question_answering"
    VISUAL_REASONING = "visual_reasoning"
    VISUAL_GROUNDING = "visual_grounding"
    OBJECT_DETECTION = "object_detection"
    SEGMENTATION = "segmentation"
    OBJECT_TRACKING = "object_tracking"
    VIDEO_CAPTIONING = "video_captioning"
    STRUCTURED_EXTRACTION = "structured_extraction"

    @classmethod
    def _missing_(cls, value: object) -> Capability | None:
        """Accept what people write: `Object detection`, `object-detection`, `vqa`."""
        slug = re.sub(r"[\s\-]+", "_", str(value).strip().lower())
        slug = _ALSO_WRITTEN.get(slug, slug)
        return cls._value2member_map_.get(slug)  # type: ignore[return-value]

    @property
    def media_kinds(self) -> frozenset[MediaKind]:
        """The kinds of media this capability can be asked of."""
        return _MEDIA_KINDS[self]

    @property
    def gives_text(self) -> bool:
        """Whether the result is text."""
        return self in TEXT_CAPABILITIES

    @property
    def gives_places(self) -> bool:
        """Whether the result is regions or tracks."""
        return not self.gives_text and self is not Capability.STRUCTURED_EXTRACTION


_ALSO_WRITTEN = {
    "captioning": "image_captioning",
    "vqa": "visual_question_answering",
    "question_answering": "visual_question_answering",
    "reasoning": "visual_reasoning",
    "multimodal_reasoning": "visual_reasoning",
    "grounding": "visual_grounding",
    "detection": "object_detection",
    "object_segmentation": "segmentation",
    "tracking": "object_tracking",
    "extraction": "structured_extraction",
}

TEXT_CAPABILITIES = frozenset(
    {
        Capability.IMAGE_CAPTIONING,
        Capability.VISUAL_QUESTION_ANSWERING,
        Capability.VISUAL_REASONING,
        Capability.VIDEO_CAPTIONING,
    }
)

_BOTH = frozenset({MediaKind.IMAGE, MediaKind.VIDEO})
_MEDIA_KINDS = {
    Capability.IMAGE_CAPTIONING: frozenset({MediaKind.IMAGE}),
    Capability.VISUAL_QUESTION_ANSWERING: _BOTH,
    Capability.VISUAL_REASONING: _BOTH,
    Capability.VISUAL_GROUNDING: frozenset({MediaKind.IMAGE}),
    Capability.OBJECT_DETECTION: _BOTH,
    Capability.SEGMENTATION: _BOTH,
    Capability.OBJECT_TRACKING: frozenset({MediaKind.VIDEO}),
    Capability.VIDEO_CAPTIONING: frozenset({MediaKind.VIDEO}),
    Capability.STRUCTURED_EXTRACTION: frozenset({MediaKind.IMAGE}),
}
