"""Detectors by transformers' auto classes: asked by text (Grounding DINO and MM-Grounding-DINO, OWLv2, OmDet-Turbo), or
for labels of their own (RF-DETR, D-FINE, RT-DETR and its second version).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sightflow.blocks.extras import is_installed
from sightflow.blocks.models import weights
from sightflow.blocks.models.contract import Availability, BatchGenerator, LoadedWeights
from sightflow.blocks.models.detection.families import FAMILIES, Family, Thresholds
from sightflow.blocks.models.detection.generator import DetectionGenerator
from sightflow.blocks.models.detection.labels import known_labels, unknown_label
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.region_finder import RegionFinder
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import ModelError
from sightflow.schemas.geometry import ImageTransform
from sightflow.schemas.media import Media
from sightflow.schemas.rating import Rating, unrated
from sightflow.schemas.vision import ModelRef, VisionRequest

_APACHE = (
    "IDEA-Research/grounding-dino-", "openmmlab-community/mm_grounding_dino_", "google/owlv2-", "omlab/omdet-turbo-",
    "PekingU/rtdetr_", "ustc-community/dfine-",
)  # fmt: skip
"""How ids begin whose weights are under Apache-2.0."""


class Detector(RegionFinder, OpenWeightsModel):
    """Any detector of these families, by its id: `models: {fast: {system: detector, id: IDEA-Research/...}}`.

    Zero-shot ones look for any labels or phrases, and need some; closed-set ones know those of their config, and refuse
    others. They find boxes with scores; what they give twice (these networks are trained to give each object once, and
    do not always) stays, unless `nms_threshold` says otherwise.
    """

    _block_type_name = "Sightflow detector"
    _block_type_slug = "sightflow-detector"

    rating = Rating(
        system="detector",
        capabilities=unrated(Capability.OBJECT_DETECTION, Capability.VISUAL_GROUNDING, Capability.OBJECT_TRACKING),
        deployment="easy",
        getting_started="fast",
        weights="open",
        used_by="transformers",
        strength="boxes with scores, small and quick",
    )
    memory_gib = 1.5
    default = ModelRef("IDEA-Research/grounding-dino-tiny", revision="main", licence="apache-2.0", commercial_use="yes")

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="float32", description="Of the numbers; half precision moves boxes by some pixels."
    )
    threshold: float | None = Field(
        default=None, ge=0, le=1, description="Least score of a box; unset: as the family has it (0.1 to 0.5)."
    )
    text_threshold: float = Field(default=0.25, ge=0, le=1, description="Least score of a label (Grounding DINO).")
    nms_threshold: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Most overlap (IoU) of two boxes of one label; unset: as the family has it.",
    )

    # --- the weights ----------------------------------------------------------------------------

    @property
    def ref(self) -> ModelRef:
        ref = super().ref
        known = ref.id.startswith(_APACHE)
        return ModelRef(ref.id, ref.revision, "apache-2.0", "yes") if known else ref

    def described(self) -> dict[str, Any]:
        """The config of the weights, if they are on this machine; else nothing."""
        path = self.local_path()
        return weights.config(path) if path else {}

    @property
    def family(self) -> Family | None:
        """What is known of the family of the weights, if they are on this machine and of one that is served."""
        loaded = self._config is not None
        return FAMILIES.get(str(self._config.model_type if loaded else self.described().get("model_type")))

    @property
    def weights_class(self) -> str:
        zero_shot = self.family is not None and self.family.zero_shot
        return "AutoModelForZeroShotObjectDetection" if zero_shot else "AutoModelForObjectDetection"

    def refuse_another_model(self, path: Path) -> None:
        if weights.model_type(path) not in FAMILIES:
            raise ModelError(f"{self.system}: {self._of_no_family()}")

    def _of_no_family(self) -> str:
        found = self.described().get("model_type")
        return f"{self.ref.id} holds weights of {found!r}; known: {', '.join(FAMILIES)}"

    def availability(self) -> Availability:
        available = super().availability()
        if available.usable and _needs_timm(self.described()) and not is_installed("timm"):
            return Availability(False, f"the backbone of {self.ref.id} is one of timm's", "run: pip install timm")
        return available

    def load_processor(self, path: Path) -> Any:
        from transformers import AutoImageProcessor, AutoProcessor

        zero_shot = self.family is not None and self.family.zero_shot
        loader = AutoProcessor if zero_shot else AutoImageProcessor
        return loader.from_pretrained(path, trust_remote_code=False, local_files_only=True)

    def batch_generator(self, weights: LoadedWeights) -> BatchGenerator:
        return DetectionGenerator(
            weights, weights.model.config.model_type, self.thresholds(weights.model.config.model_type)
        )

    def thresholds(self, model_type: str) -> Thresholds:
        """The thresholds of a family, where the settings say none."""
        family = FAMILIES[model_type]
        score = family.threshold if self.threshold is None else self.threshold
        nms = family.nms if self.nms_threshold is None else self.nms_threshold
        return Thresholds(score, self.text_threshold, nms)

    # --- what is asked --------------------------------------------------------------------------

    def unsupported_reason(self, enrichment: Enrichment, media_kind: MediaKind) -> str | None:
        if reason := super().unsupported_reason(enrichment, media_kind):
            return reason
        if not (config := self.described()):
            return None  # nothing is known of it yet; the weights are not here
        if (family := self.family) is None:
            return self._of_no_family()
        wanted = self.wanted(enrichment)
        if family.zero_shot:
            return None if wanted else f"{self.ref.id} finds what it is asked for; give it `labels`"
        known = known_labels(config)
        if enrichment.capability is Capability.VISUAL_GROUNDING:
            return f"{self.ref.id} knows {len(known)} labels and no phrases; take one that is asked by text"
        problem = unknown_label(known, wanted)
        return f"{self.ref.id} {problem}" if problem else None

    def image_transform(self, request: VisionRequest) -> ImageTransform:
        width, height = request.media.width, request.media.height
        if self.family is None or not self.family.pads_to_square:
            return ImageTransform.whole(width, height)
        side = max(width, height)
        return ImageTransform(width, height, side, side, content_width=width, content_height=height)

    @property
    def longest_frame_side(self) -> int:
        return 1333  # as Grounding DINO sees them; the others see less

    def prompt_length(self, media: Media) -> float:
        # Those of one size stand beside each other, and go through the network together.
        return super().prompt_length(media) + media.width / 1e6

    def generation_settings(self) -> dict[str, Any]:
        model_type = str(self.described().get("model_type"))
        least = self.thresholds(model_type) if model_type in FAMILIES else None
        return super().generation_settings() | ({"thresholds": [least.score, least.text, least.nms]} if least else {})


def _needs_timm(config: dict[str, Any]) -> bool:
    backbone = config.get("backbone_config")
    if isinstance(backbone, dict):
        return backbone.get("model_type") == "timm_backbone"
    return bool(config.get("use_timm_backbone", config.get("model_type") == "omdet-turbo"))
