"""GPT-4o and what follows it at OpenAI, over chat completions with strict structured output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from pydantic import Field

from sightflow.blocks.models.contract import Availability, Prompt
from sightflow.blocks.models.hosted_model import HostedModel
from sightflow.blocks.models.hosted_profiles import HostedProfile
from sightflow.blocks.models.image_sizes import Size, fit_within
from sightflow.blocks.models.openai_access import OpenAIAccess
from sightflow.blocks.models.replies.regions_schema import POINTS, region_properties, strict_object
from sightflow.blocks.models.reply_forms import JsonSchema
from sightflow.blocks.models.video.frame_prompts import media_prompts
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.geometry import PER_MILLE
from sightflow.schemas.rating import Rating, stars
from sightflow.schemas.vision import ModelRef


@dataclass(frozen=True)
class OpenAIProfile(HostedProfile):
    """How an id counts pictures: 512-pixel tiles (tokens at all, tokens a tile) or 32-pixel patches (most of
    them, tokens each); and what it takes to be terse and steady: reasoning models take no temperature.
    """

    tiles: tuple[int, int] | None = None
    patches: tuple[int, float] = (2500, 1.0)
    sampling: Mapping[str, Any] = field(default_factory=dict)


# As read in November 2026 at developers.openai.com: api/docs/pricing, /deprecations, /guides/images-vision.
_END: Mapping[str, Any] = {"ends": "2027-01-14", "successor": "gpt-6-luna", "sampling": {"temperature": 0.0}}
_UNREASONED = {"reasoning_effort": "none"}
_PROFILES = {
    "gpt-4o": OpenAIProfile(2.50, 10.00, tiles=(85, 170), **_END),
    "gpt-4o-mini": OpenAIProfile(0.15, 0.60, tiles=(2833, 5667), **_END),
    "gpt-4.1": OpenAIProfile(2.00, 8.00, tiles=(85, 170), **_END),
    "gpt-4.1-mini": OpenAIProfile(0.40, 1.60, patches=(1536, 1.62), **_END),
    "gpt-5.6-luna": OpenAIProfile(0.20, 1.20, sampling=_UNREASONED),
    "gpt-6-luna": OpenAIProfile(0.10, 0.50, sampling=_UNREASONED),
}
_RETIRED = {
    "gpt-4-vision-preview": "gpt-6-luna",
    "gpt-4-turbo": "gpt-5.6-sol",
    "gpt-4o-2024-05-13": "gpt-5.6-sol",
    "chatgpt-4o-latest": "gpt-6-luna",
    "gpt-4.1-nano": "gpt-5.6-luna",
}
_BOX_FORM = '"box": [x_min, y_min, x_max, y_max] in thousandths of the picture\'s width and height, from its top left'
_POLYGON_FORM = '"polygon": [[x, y], ...], its outline in the same units'


class GPT4o(OpenAIAccess, HostedModel):
    """GPT-4o: top multimodal reasoning. It has no native boxes; it is asked for thousandths by a JSON schema that
    the provider enforces, and so are choices.
    """

    _block_type_name = "Sightflow GPT-4o"
    _block_type_slug = "sightflow-gpt-4o"

    rating = Rating(
        system="gpt-4o",
        capabilities=stars(
            captioning=5, answering=5, reasoning=5, grounding=4, detection=3, tracking=4, video_captioning=5
        ),
        deployment="very easy",
        getting_started="fastest",
        weights="closed",
        used_by="official API",
        community="very complete",
        strength="top multimodal reasoning",
    )
    box_format = PER_MILLE
    vendor = "OpenAI"
    vendor_engine = "openai"
    box_keys = ("box",)
    key_variables = ("OPENAI_API_KEY",)
    profiles = _PROFILES
    fallback_profile = OpenAIProfile(0, 0, thinking_tokens=4096)  # may reason, may refuse a temperature
    retired = _RETIRED
    default = ModelRef("gpt-4o-2024-11-20", licence="proprietary")

    detail: Literal["low", "high"] = Field(default="high", description="low: a picture is seen at 512 x 512 pixels.")

    @property
    def profile(self) -> OpenAIProfile:
        return cast(OpenAIProfile, super().profile)

    def generation_settings(self) -> dict[str, Any]:
        return super().generation_settings() | dict(self.profile.sampling) | {"detail": self.detail}

    # --- the account ----------------------------------------------------------------------------

    @property
    def server_address(self) -> str | None:
        return self.base_url

    @property
    def accepted_variables(self) -> tuple[str, ...]:
        return self.own_key_variables(self.key_variables)

    @property
    def needs_key(self) -> bool:
        return not self.azure_entra

    def account_availability(self) -> Availability:
        return self.access_problem() or super().account_availability()

    # --- pictures -------------------------------------------------------------------------------

    def sent_size(self, size: Size) -> Size:
        if self.detail == "low":
            return fit_within(size, 512)
        if self.profile.tiles:
            return fit_within(size, 2048, 768)
        width, height = fit_within(size, 2048)
        most = self.profile.patches[0] * 32 * 32
        shrink = min(1.0, math.sqrt(most / (width * height)))
        return max(1, math.floor(width * shrink)), max(1, math.floor(height * shrink))

    def image_tokens(self, size: Size) -> int:
        width, height = self.sent_size(size)
        if self.profile.tiles:
            at_all, each = self.profile.tiles
            tiles = 0 if self.detail == "low" else math.ceil(width / 512) * math.ceil(height / 512)
            return at_all + each * tiles
        most, each_patch = self.profile.patches
        return math.ceil(min(most, math.ceil(width / 32) * math.ceil(height / 32)) * each_patch)

    # --- prompts --------------------------------------------------------------------------------

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        prompts = media_prompts(enrichment, media_kind, self.max_new_tokens, _BOX_FORM, _POLYGON_FORM)
        if not enrichment.capability.gives_places:
            return prompts
        region = region_properties(enrichment, media_kind, "box", {"polygon": POINTS})
        # Strict schemas are objects at their root.
        form = JsonSchema(strict_object({"regions": {"type": "array", "items": strict_object(region)}}))
        words = 'The array is the value of "regions" in an object.'
        return tuple(replace(p, text=f"{p.text} {words}", reply_form=form) for p in prompts)
