"""GPT-4o and what follows it at OpenAI, over chat completions with strict structured output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from pydantic import Field

from sightflow.blocks.models.contract import Availability, Prompt
from sightflow.blocks.models.hosted_model import HostedModel
from sightflow.blocks.models.hosted_profiles import HostedProfile
from sightflow.blocks.models.image_sizes import Size
from sightflow.blocks.models.openai_access import OpenAIAccess
from sightflow.blocks.models.replies.regions_schema import POINTS, region_properties, strict_object
from sightflow.blocks.models.reply_forms import JsonSchema
from sightflow.blocks.models.token_rules import openai as rules
from sightflow.blocks.models.token_rules.openai import Patches, Tiles
from sightflow.blocks.models.video.frame_prompts import media_prompts
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.geometry import PER_MILLE
from sightflow.schemas.rating import Rating, stars
from sightflow.schemas.vision import ModelRef


@dataclass(frozen=True)
class OpenAIProfile(HostedProfile):
    """`images`: how an id counts them. `sampling`: what it takes to be terse and steady; reasoning models take no
    temperature.
    """

    images: Tiles | Patches = rules.GPT_6
    sampling: Mapping[str, Any] = field(default_factory=dict)


# As read in November 2026 at developers.openai.com: api/docs/deprecations, /guides/images-vision, /guides/reasoning;
# ids and ends also in openai 3.54, types/shared/chat_model.py.
_STEADY: Mapping[str, Any] = {"sampling": {"temperature": 0.0}}
_LEAST: Mapping[str, Any] = {"sampling": {"reasoning_effort": "minimal"}, "thinking_tokens": 1024}
_LOW: Mapping[str, Any] = {"sampling": {"reasoning_effort": "low"}, "thinking_tokens": 4096}
_NONE: Mapping[str, Any] = {"sampling": {"reasoning_effort": "none"}}
_JANUARY: Mapping[str, Any] = {"ends": "2027-01-14", "successor": "gpt-6-luna"}
_DECEMBER: Mapping[str, Any] = {"ends": "2026-12-11", "successor": "gpt-6-luna"}
_APRIL: Mapping[str, Any] = {"ends": "2027-04-01", "successor": "gpt-6-luna"}
_PROFILES = {
    "gpt-4o": OpenAIProfile(images=rules.GPT_4O, **_JANUARY, **_STEADY),
    "gpt-4o-mini": OpenAIProfile(images=rules.GPT_4O_MINI, **_JANUARY, **_STEADY),
    "gpt-4.1": OpenAIProfile(images=rules.GPT_4O, **_JANUARY, **_STEADY),
    "gpt-4.1-mini": OpenAIProfile(images=rules.MINI, **_JANUARY, **_STEADY),
    "o3": OpenAIProfile(images=rules.O_SERIES, **_DECEMBER, **_LOW),
    "gpt-5": OpenAIProfile(images=rules.GPT_5, **_DECEMBER, **_LEAST),
    "gpt-5-mini": OpenAIProfile(images=rules.MINI, **_DECEMBER, **_LEAST),
    "gpt-5-nano": OpenAIProfile(images=rules.NANO, **_DECEMBER, **_LEAST),
    "gpt-5.1": OpenAIProfile(images=rules.GPT_5, **_APRIL, **_NONE),
    "gpt-5.2": OpenAIProfile(images=rules.GPT_5_2, **_NONE),
    "gpt-5.4": OpenAIProfile(images=rules.GPT_5_4, **_NONE),
    "gpt-5.4-mini": OpenAIProfile(images=rules.MINI, **_NONE),
    "gpt-5.4-nano": OpenAIProfile(images=rules.NANO, **_APRIL, **_NONE),
    "gpt-5.5": OpenAIProfile(images=rules.GPT_5_4, **_NONE),
    "gpt-5.6-luna": OpenAIProfile(images=rules.GPT_5_6, **_NONE),
    "gpt-5.6-terra": OpenAIProfile(images=rules.GPT_5_6, **_NONE),
    "gpt-5.6-sol": OpenAIProfile(images=rules.GPT_5_6, **_NONE),
    "gpt-6-luna": OpenAIProfile(images=rules.GPT_6, **_NONE),
    "gpt-6-sol": OpenAIProfile(images=rules.GPT_6, **_NONE),
    "gpt-6-astra": OpenAIProfile(images=rules.GPT_6, **_NONE),
    "gpt-6.1-sol": OpenAIProfile(images=rules.GPT_6, **_NONE),
    "gpt-6.1-terra": OpenAIProfile(images=rules.GPT_6, **_NONE),
    "gpt-6.2-sol": OpenAIProfile(images=rules.GPT_6, **_NONE),
    "gpt-6.2-astra": OpenAIProfile(images=rules.GPT_6, **_NONE),
}
_RETIRED = {
    "gpt-4-vision-preview": "gpt-6-luna",
    "gpt-4-turbo": "gpt-5.6-sol",
    "gpt-4o-2024-05-13": "gpt-5.6-sol",
    "chatgpt-4o-latest": "gpt-6-luna",
    "gpt-4.1-nano": "gpt-5.6-luna",
    "o1": "gpt-6-sol",
    "o4-mini": "gpt-6-luna",
    "gpt-5-chat-latest": "gpt-6-luna",
    "gpt-5.1-chat-latest": "gpt-6-luna",
    "gpt-5.2-chat-latest": "gpt-6-luna",
    "gpt-5.3-chat-latest": "gpt-6-luna",
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
    price_provider = "openai"
    box_keys = ("box",)
    key_variables = ("OPENAI_API_KEY",)
    profiles = _PROFILES
    fallback_profile = OpenAIProfile(thinking_tokens=4096)  # may reason, may refuse a temperature
    retired = _RETIRED
    default = ModelRef("gpt-4o-2024-11-20", licence="proprietary")

    detail: Literal["low", "high", "original"] = Field(
        default="high",
        description="low: seen at 512 x 512 pixels; original: larger than high, by ids from gpt-5.4 on.",
    )

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

    @property
    def asked_detail(self) -> str:
        """The detail that the id knows, of what is set."""
        rule = self.profile.images
        knows_original = isinstance(rule, Patches) and rule.original is not None
        return "high" if self.detail == "original" and not knows_original else self.detail

    def sent_size(self, size: Size) -> Size:
        return self.profile.images.sent_size(size, self.asked_detail)

    def image_tokens(self, size: Size) -> int:
        return self.profile.images.tokens(size, self.asked_detail)

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
