"""Qwen-VL-Max and the Qwen3 line that follows it, over DashScope's own API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from sightflow.blocks.models.contract import Prompt
from sightflow.blocks.models.hosted_model import HostedModel
from sightflow.blocks.models.hosted_profiles import HostedProfile
from sightflow.blocks.models.image_sizes import Size
from sightflow.blocks.models.token_rules import qwen as rules
from sightflow.blocks.models.token_rules.qwen import LEAST_FRAMES, Cells
from sightflow.blocks.models.video.frame_prompts import media_prompts
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.geometry import PER_MILLE, PIXELS_SEEN, BoxFormat, ImageTransform
from sightflow.schemas.rating import Rating, stars
from sightflow.schemas.vision import ModelRef, Usage, VisionRequest


@dataclass(frozen=True)
class QwenProfile(HostedProfile):
    """`cells`: how images and frames are counted. `boxes`: in thousandths, or in pixels of the resized image. `thinks`:
    never, by default, or always.
    """

    cells: Cells = rules.QWEN_3
    boxes: Literal["thousandths", "pixels"] = "thousandths"
    thinks: Literal["never", "by default", "always"] = "by default"


# As read in November 2026 at alibabacloud.com/help/en/model-studio: /models, /vision, /rate-limit, /error-code.
_LIMITS: Mapping[str, Any] = {"requests_per_minute": 1200, "tokens_per_minute": 1_000_000}
_2_5: dict[str, Any] = {"cells": rules.QWEN_2_5, "boxes": "pixels", "thinks": "never"}
_END: Mapping[str, Any] = {"ends": "2026-07", "successor": "qwen3.7-plus"}
_PROFILES = {
    "qwen-vl-max": QwenProfile(**_2_5, **_END, **_LIMITS),
    "qwen-vl-max-2025-08-13": QwenProfile(**(_2_5 | {"cells": rules.QWEN_2_5_LATE}), **_END, **_LIMITS),
    "qwen-vl-plus": QwenProfile(**_2_5, **_END, **_LIMITS),
    "qwen2.5-vl-72b-instruct": QwenProfile(**_2_5, **_END),
    "qwen3-vl-plus": QwenProfile(cells=rules.QWEN_3_VL_PLUS, thinks="never", **_LIMITS),
    "qwen3-vl-flash": QwenProfile(thinks="never", **_LIMITS),
    "qwen3.5-plus": QwenProfile(),
    "qwen3.5-flash": QwenProfile(),
    "qwen3.7-plus": QwenProfile(),
    "qwen3.8-flash": QwenProfile(),
    "qwen3.8-max": QwenProfile(thinks="always", thinking_tokens=4096),
}
_RETIRED = {"qwen-vl-v1": "qwen3.7-plus", "qwen-vl-chat-v1": "qwen3.7-plus"}

_BOX_FORMS = {
    "thousandths": '"bbox_2d": [x_min, y_min, x_max, y_max] on a scale from 0 to 1000',
    "pixels": '"bbox_2d": [x_min, y_min, x_max, y_max] in pixels of the picture',
}
_POLYGON_FORM = '"polygon": [[x, y], ...], its outline in the same units'


class QwenVLMax(HostedModel):
    """Qwen-VL-Max: top in Chinese, strong at grounding.

    The 2.5 generation names boxes in pixels of the picture as it resized it, so pictures are sent at a size that
    it leaves alone; the Qwen3 line names them in thousandths.
    """

    _block_type_name = "Sightflow Qwen-VL-Max"
    _block_type_slug = "sightflow-qwen-vl-max"

    rating = Rating(
        system="qwen-vl-max",
        capabilities=stars(
            captioning=5, answering=5, reasoning=4, grounding=5, detection=4, tracking=4, video_captioning=4
        ),
        deployment="very easy",
        getting_started="fastest",
        weights="closed",
        used_by="official API (Alibaba Cloud)",
        community="complete",
        strength="top in Chinese, complete",
        languages=("zh", "en"),
    )
    box_format = PER_MILLE
    vendor = "Alibaba Cloud"
    vendor_engine = "dashscope"
    price_provider = "alibaba"
    schemas_cost_tokens = False
    box_keys = ("bbox_2d",)
    key_variables = ("DASHSCOPE_API_KEY",)
    profiles = _PROFILES
    fallback_profile = _PROFILES["qwen3.7-plus"]
    retired = _RETIRED
    default = ModelRef("qwen3.7-plus", licence="proprietary")

    @property
    def profile(self) -> QwenProfile:
        return cast(QwenProfile, super().profile)

    @property
    def spoken_format(self) -> BoxFormat:
        return PIXELS_SEEN if self.profile.boxes == "pixels" else PER_MILLE

    def image_transform(self, request: VisionRequest) -> ImageTransform:
        media = request.media
        if self.profile.boxes == "pixels":
            return ImageTransform.resized(media.width, media.height, *self.shown_size(media))
        return super().image_transform(request)

    def generation_settings(self) -> dict[str, Any]:
        return super().generation_settings() | self.sampling_parameters

    @property
    def sampling_parameters(self) -> dict[str, Any]:
        """What is sent with every request, so that the same input gives the same reply."""
        thinking = {"enable_thinking": False} if self.profile.thinks == "by default" else {}
        return {"temperature": 0.0, "seed": 0, **thinking}

    # --- pictures -------------------------------------------------------------------------------

    def sent_size(self, size: Size) -> Size:
        return self.profile.cells.sent_size(size)

    def image_tokens(self, size: Size) -> int:
        return self.profile.cells.image_tokens(size)

    def window_usage(self, enrichment: Enrichment, size: Size, frames: int, seconds: float) -> Usage:
        """Where text is asked of them, enough frames are sent as one list."""
        if enrichment.capability.gives_text and frames >= LEAST_FRAMES:
            return Usage(self.profile.cells.video_tokens(size, frames))
        return super().window_usage(enrichment, size, frames, seconds)

    # --- asking ---------------------------------------------------------------------------------

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        box_form = _BOX_FORMS[self.profile.boxes]
        return media_prompts(enrichment, media_kind, self.max_new_tokens, box_form, _POLYGON_FORM)
