"""Gemini, over the Gemini API: y-first boxes, masks of two generations, safety blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from pydantic import Field

from sightflow.blocks.models.contract import Prompt
from sightflow.blocks.models.hosted_model import HostedModel
from sightflow.blocks.models.hosted_profiles import HostedProfile
from sightflow.blocks.models.image_sizes import Size, fit_within
from sightflow.blocks.models.replies.json_regions import ReadMask
from sightflow.blocks.models.replies.png_masks import read_probability_mask
from sightflow.blocks.models.replies.regions_schema import POINTS, region_properties
from sightflow.blocks.models.reply_forms import JsonSchema
from sightflow.blocks.models.video.frame_prompts import media_prompts
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.geometry import BoxFormat
from sightflow.schemas.rating import Rating, stars
from sightflow.schemas.vision import ModelRef


@dataclass(frozen=True)
class GeminiProfile(HostedProfile):
    """`image_tokens`: of every picture, or None if it is counted in tiles. `masks`: the form they come in.
    `temperature`: None where sampling parameters are deprecated. `thinking`: what makes it think least.
    """

    image_tokens: int | None = 1120
    masks: Literal["png", "polygon"] = "polygon"
    temperature: float | None = None
    thinking: Mapping[str, Any] = field(default_factory=lambda: {"thinking_level": "LOW"})


# As read in November 2026 at ai.google.dev: gemini-api/docs/pricing, /deprecations, /media-resolution, /models.
_2_5: Mapping[str, Any] = {"image_tokens": None, "masks": "png", "temperature": 0.0, "ends": "2026-12-01"}
_FLASH: Mapping[str, Any] = {"successor": "gemini-3.8-flash", "thinking": {"thinking_budget": 0}}
_LITE: Mapping[str, Any] = {"successor": "gemini-3.5-flash-lite", "thinking": {"thinking_budget": 0}}
_PRO: Mapping[str, Any] = {"successor": "gemini-3.8-flash", "thinking": {"thinking_budget": 128}}
_MINIMAL = {"thinking_level": "MINIMAL"}
_PROFILES = {
    "gemini-2.5-pro": GeminiProfile(1.25, 10.00, thinking_tokens=256, **_2_5, **_PRO),
    "gemini-2.5-flash": GeminiProfile(0.30, 2.50, **_2_5, **_FLASH),
    "gemini-2.5-flash-lite": GeminiProfile(0.10, 0.40, **_2_5, **_LITE),
    "gemini-3-flash-preview": GeminiProfile(0.50, 3.00, thinking_tokens=512, thinking=_MINIMAL),
    "gemini-3.1-flash-lite": GeminiProfile(0.25, 1.50, thinking_tokens=512, thinking=_MINIMAL),
    "gemini-3.1-pro-preview": GeminiProfile(2.00, 12.00, thinking_tokens=2048),
    "gemini-3.5-flash": GeminiProfile(1.50, 9.00, thinking_tokens=512, thinking=_MINIMAL),
    "gemini-3.5-flash-lite": GeminiProfile(0.30, 2.50, thinking_tokens=512, thinking=_MINIMAL),
    "gemini-3.6-flash": GeminiProfile(1.50, 7.50, thinking_tokens=2048),
    "gemini-3.7-flash": GeminiProfile(0.75, 3.75, thinking_tokens=2048),
    "gemini-3.8-flash": GeminiProfile(0.75, 3.75, thinking_tokens=2048),
}
_RETIRED = {
    "gemini-pro-vision": "gemini-3.8-flash",
    "gemini-1.0-pro-vision": "gemini-3.8-flash",
    "gemini-1.5-pro": "gemini-3.8-flash",
    "gemini-1.5-flash": "gemini-3.8-flash",
    "gemini-1.5-flash-8b": "gemini-3.5-flash-lite",
    "gemini-2.0-flash": "gemini-3.8-flash",
    "gemini-2.0-flash-lite": "gemini-3.5-flash-lite",
    "gemini-3-pro-preview": "gemini-3.1-pro-preview",
}
_BOX_FORM = '"box_2d": [y_min, x_min, y_max, x_max] normalized to 0-1000'
_MASK_FORMS = {
    "png": '"mask": its segmentation mask within the box, as a base64 encoded PNG probability map',
    "polygon": '"mask": its outline as a list of [x, y] points normalized to 0-1000',
}


class Gemini(HostedModel):
    """Gemini: very long context, video, boxes and masks of its own.

    `box_2d` is [y_min, x_min, y_max, x_max] in thousandths. Masks are a base64 PNG of probabilities inside
    the box (up to 2.5) or a polygon of x-first points in thousandths (from 3 on); either is read.
    """

    _block_type_name = "Sightflow Gemini"
    _block_type_slug = "sightflow-gemini"

    rating = Rating(
        system="gemini",
        capabilities=stars(
            captioning=5, answering=5, reasoning=5, grounding=4, detection=4, tracking=5, video_captioning=5
        ),
        deployment="very easy",
        getting_started="fastest",
        weights="closed",
        used_by="official API (AI Studio)",
        community="very complete",
        strength="very long context, video",
    )
    box_format = BoxFormat(scale=1000.0, order="yxyx", point_order="xy")
    vendor = "Google"
    vendor_engine = "gemini"
    box_keys = ("box_2d",)
    key_variables = ("GOOGLE_API_KEY", "GEMINI_API_KEY")
    profiles = _PROFILES
    fallback_profile = _PROFILES["gemini-3.8-flash"]
    retired = _RETIRED
    default = ModelRef("gemini-3.8-flash", licence="proprietary")

    project: str | None = Field(
        default=None, min_length=1, max_length=100, description="Vertex AI instead of AI Studio: the Cloud project."
    )
    location: str = Field(
        default="global", pattern=r"^[a-z0-9-]{2,40}$", description="Vertex AI: where it runs, e.g. europe-west4."
    )

    @property
    def vendor_place(self) -> str:
        """Where requests go, in words."""
        return self.base_url or (f"Vertex AI, {self.project}, {self.location}" if self.project else self.vendor)

    @property
    def needs_key(self) -> bool:
        """At Vertex AI application-default credentials open the account."""
        return self.project is None

    def key(self) -> str:
        return super().key() if self.needs_key else ""

    @property
    def profile(self) -> GeminiProfile:
        return cast(GeminiProfile, super().profile)

    def generation_settings(self) -> dict[str, Any]:
        profile = self.profile
        return super().generation_settings() | {"temperature": profile.temperature, **profile.thinking}

    # --- pictures -------------------------------------------------------------------------------

    def sent_size(self, size: Size) -> Size:
        return fit_within(size, 3072)

    def image_tokens(self, size: Size) -> int:
        if self.profile.image_tokens is not None:
            return self.profile.image_tokens
        width, height = self.sent_size(size)
        if max(width, height) <= 384:
            return 258
        side = min(768, max(256, int(min(width, height) / 1.5)))
        return 258 * math.ceil(width / side) * math.ceil(height / side)

    # --- prompts and replies --------------------------------------------------------------------

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        mask_form = _MASK_FORMS[self.profile.masks]
        prompts = media_prompts(enrichment, media_kind, self.max_new_tokens, _BOX_FORM, mask_form)
        if not enrichment.capability.gives_places:
            return prompts
        outline = {"type": "string"} if self.profile.masks == "png" else POINTS
        region = region_properties(enrichment, media_kind, "box_2d", {"mask": outline})
        items = {"type": "object", "properties": region, "required": list(region)}
        form = JsonSchema({"type": "array", "items": items})
        return tuple(replace(prompt, reply_form=form) for prompt in prompts)

    @property
    def mask_reader(self) -> ReadMask:
        return read_probability_mask
