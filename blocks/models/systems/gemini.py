"""Gemini, over the Gemini API: y-first boxes, masks of two generations, safety blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from pydantic import Field

from sightflow.blocks.models.contract import Prompt
from sightflow.blocks.models.hosted_model import HostedModel
from sightflow.blocks.models.hosted_profiles import HostedProfile
from sightflow.blocks.models.image_sizes import Size, fit_within
from sightflow.blocks.models.replies.json_regions import ReadMask
from sightflow.blocks.models.replies.regions_schema import POINTS, region_properties
from sightflow.blocks.models.reply_forms import JsonSchema
from sightflow.blocks.models.token_rules import gemini as rules
from sightflow.blocks.models.token_rules.gemini import Resolutions, TiledImages
from sightflow.blocks.models.video.frame_prompts import media_prompts
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.geometry import BoxFormat
from sightflow.schemas.rating import Rating, stars
from sightflow.schemas.vision import ModelRef, Usage


@dataclass(frozen=True)
class GeminiProfile(HostedProfile):
    """`media`: how images and videos are counted. `masks`: the form they come in. `temperature`: None where sampling
    parameters are deprecated. `thinking`: what makes it think least.
    """

    media: Resolutions | TiledImages = rules.GEMINI_3
    masks: Literal["png", "polygon"] = "polygon"
    temperature: float | None = None
    thinking: Mapping[str, Any] = field(default_factory=lambda: {"thinking_level": "LOW"})


# As read in November 2026 at ai.google.dev: gemini-api/docs/deprecations, /media-resolution, /models; the ids of
# Gemini 4 in google-genai 3.6.1.
_2_5: Mapping[str, Any] = {"media": rules.GEMINI_2_5, "masks": "png", "temperature": 0.0, "ends": "2026-12-01"}
_FLASH: Mapping[str, Any] = {"successor": "gemini-3.8-flash", "thinking": {"thinking_budget": 0}}
_LITE: Mapping[str, Any] = {"successor": "gemini-3.5-flash-lite", "thinking": {"thinking_budget": 0}}
_PRO: Mapping[str, Any] = {"successor": "gemini-3.8-flash", "thinking": {"thinking_budget": 128}}
_MINIMAL: Mapping[str, Any] = {"thinking": {"thinking_level": "MINIMAL"}, "thinking_tokens": 512}
_PROFILES = {
    "gemini-2.5-pro": GeminiProfile(thinking_tokens=256, **_2_5, **_PRO),
    "gemini-2.5-flash": GeminiProfile(**_2_5, **_FLASH),
    "gemini-2.5-flash-lite": GeminiProfile(**_2_5, **_LITE),
    "gemini-3-flash-preview": GeminiProfile(**_MINIMAL),
    "gemini-3.1-flash-lite": GeminiProfile(**_MINIMAL),
    "gemini-3.1-pro-preview": GeminiProfile(thinking_tokens=2048),
    "gemini-3.5-flash": GeminiProfile(**_MINIMAL),
    "gemini-3.5-flash-lite": GeminiProfile(**_MINIMAL),
    "gemini-3.6-flash": GeminiProfile(thinking_tokens=2048),
    "gemini-3.7-flash": GeminiProfile(thinking_tokens=2048),
    "gemini-3.8-flash": GeminiProfile(thinking_tokens=2048),
    "gemini-4-argon": GeminiProfile(thinking_tokens=2048),
    "gemini-4-carbon": GeminiProfile(thinking_tokens=2048),
    "gemini-4-hydrogen": GeminiProfile(thinking_tokens=2048),
    "gemini-4-neon": GeminiProfile(thinking_tokens=2048),
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
    price_provider = "google"
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
    media_resolution: Literal["low", "medium", "high"] | None = Field(
        default=None, description="Tokens of an image or frame; empty: the vendor's default."
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
        settings = super().generation_settings() | {"temperature": profile.temperature, **profile.thinking}
        return settings | ({"media_resolution": self.media_resolution} if self.media_resolution else {})

    # --- pictures -------------------------------------------------------------------------------

    def sent_size(self, size: Size) -> Size:
        return fit_within(size, 3072)

    def image_tokens(self, size: Size) -> int:
        return self.profile.media.image_tokens(size, self.media_resolution or "")

    def window_usage(self, enrichment: Enrichment, size: Size, frames: int, seconds: float) -> Usage:
        """Where text is asked of it, a video is sent as it is."""
        if enrichment.capability.gives_text:
            return self.file_usage(frames, seconds)
        return super().window_usage(enrichment, size, frames, seconds)

    def file_usage(self, frames: int, seconds: float) -> Usage:
        """The tokens of a video that is sent as it is: of so many frames of it, and of its sound, if it has any."""
        sound = rules.sound_tokens(seconds)
        seen = rules.video_tokens(self.profile.media, frames, self.media_resolution or "")
        return Usage(seen + sound, audio_input_tokens=sound)

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
        from sightflow.blocks.models.replies.png_masks import read_probability_mask  # with numpy and Pillow

        return read_probability_mask
