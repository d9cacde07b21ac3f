"""GPT-4o and what follows it at OpenAI, over chat completions with strict structured output."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from sightflow.blocks.models.engines.providers.image_encoding import Size, fit_within
from sightflow.blocks.models.engines.providers.messages import (
    ProviderError,
    ProviderRequest,
    ProviderResponse,
    as_text,
    as_token_count,
)
from sightflow.blocks.models.hosted_model import HostedVisionModel
from sightflow.blocks.models.model_profiles import HostedProfile
from sightflow.blocks.models.replies.frame_regions import media_prompts
from sightflow.blocks.models.vision_model import Prompt
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause
from sightflow.schemas.geometry import PER_MILLE
from sightflow.schemas.ratings import rated
from sightflow.schemas.vision import ModelRef

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletion


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
_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_REFUSED = frozenset({"content_policy_violation", "content_filter"})

_BOX_FORM = '"box": [x_min, y_min, x_max, y_max] in thousandths of the picture\'s width and height, from its top left'
_POLYGON_FORM = '"polygon": [[x, y], ...], its outline in the same units'
_NUMBERS = {"type": "array", "items": {"type": "number"}}


class GPT4o(HostedVisionModel):
    """GPT-4o: top multimodal reasoning. It has no native boxes; it is asked for thousandths by a JSON schema that
    the provider enforces, and so are choices.
    """

    _block_type_name = "Sightflow GPT-4o"
    _block_type_slug = "sightflow-gpt-4o"

    rating = rated("gpt-4o")
    box_format = PER_MILLE
    vendor = "OpenAI"
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

    def connect(self, key: str) -> openai.OpenAI:
        import openai

        return openai.OpenAI(api_key=key, base_url=self.base_url, timeout=self.timeout, max_retries=0)

    def generation_settings(self) -> dict[str, Any]:
        return super().generation_settings() | dict(self.profile.sampling) | {"detail": self.detail}

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

    # --- asking ---------------------------------------------------------------------------------

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        prompts = media_prompts(enrichment, media_kind, self.max_new_tokens, _BOX_FORM, _POLYGON_FORM)
        if enrichment.capability.gives_text:
            return prompts
        # Strict schemas are objects at their root.
        return tuple(replace(p, text=f'{p.text} The array is the value of "regions" in an object.') for p in prompts)

    def send(self, question: ProviderRequest) -> ProviderResponse | ProviderError:
        asked = dict(self.profile.sampling)
        if schema := _schema(question.request.enrichment, question.request.media.kind):
            reply_format = {"name": "reply", "schema": schema, "strict": True}
            asked["response_format"] = {"type": "json_schema", "json_schema": reply_format}
        response = self._client.chat.completions.with_raw_response.create(
            model=self.ref.id,
            messages=self._messages(question),
            max_completion_tokens=question.prompt.max_new_tokens + self.profile.thinking_tokens,
            **asked,
        )
        return read_completion(response.parse(), dict(response.headers), response.text)

    def _messages(self, question: ProviderRequest) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = []
        for title, image in question.shown:
            content += [{"type": "text", "text": title}] if title else []
            content.append({"type": "image_url", "image_url": {"url": image.data_url, "detail": self.detail}})
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": question.prompt.text}]}]
        if question.correction:
            said, complaint = question.correction
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": complaint}]
        return messages

    def map_error(self, error: Exception) -> ProviderError:
        import openai

        if isinstance(error, openai.APIStatusError):
            headers, code = dict(error.response.headers), error.code or error.type or ""
            if code in _NO_CREDIT:
                fatal_reason = (
                    f"the account has no credit left ({code}); add some, or raise its limit, at {self.vendor}"
                )
                return ProviderError(error.status_code, error.message, headers, fatal_reason=fatal_reason)
            cause = Cause.REFUSED if code in _REFUSED else None
            return ProviderError(error.status_code, error.message, headers, cause)
        if isinstance(error, openai.APIConnectionError | json.JSONDecodeError):
            return ProviderError(None, f"{type(error).__name__}: {error}")
        raise error


def read_completion(completion: ChatCompletion, headers: dict[str, str], body: str) -> ProviderResponse:
    """What a chat completion says; `body` is its JSON, kept where there is no text to keep."""
    usage = completion.usage
    spent = (as_token_count(usage.prompt_tokens), as_token_count(usage.completion_tokens)) if usage else (0, 0)
    served = as_text(completion.model) or None
    if not completion.choices:
        return ProviderResponse(
            body, *spent, served, cause=Cause.MALFORMED, why="the reply has no choices", headers=headers
        )
    choice = completion.choices[0]
    text, cut = as_text(choice.message.content), choice.finish_reason == "length"
    if choice.message.refusal or choice.finish_reason == "content_filter":
        why = as_text(choice.message.refusal) or "the provider's content filter stopped the reply"
        return ProviderResponse(text or why, *spent, served, cause=Cause.REFUSED, why=why, headers=headers)
    if not text and not cut:
        return ProviderResponse(body, *spent, served, cause=Cause.MALFORMED, why="the reply is empty", headers=headers)
    return ProviderResponse(text, *spent, served, truncated=cut, headers=headers)


def _schema(enrichment: Enrichment, media_kind: MediaKind) -> dict[str, Any] | None:
    """The JSON schema of the reply, within the subset that strict mode takes; None for free text."""
    if enrichment.choices:
        return _object({"answer": {"type": "string", "enum": list(enrichment.choices)}})
    if enrichment.capability.gives_text:
        return None
    names = enrichment.phrases or enrichment.labels
    label = {"type": "string", "enum": list(names)} if names else {"type": "string"}
    region: dict[str, Any] = {"label": label, "box": _NUMBERS | {"minItems": 4, "maxItems": 4}}
    if enrichment.capability is Capability.OBJECT_TRACKING:
        region = {"track": {"type": "integer"}, **region}
    if media_kind is MediaKind.VIDEO:
        region = {"frame": {"type": "integer"}, **region}
    if enrichment.capability is Capability.SEGMENTATION:
        region["polygon"] = {"type": "array", "items": _NUMBERS | {"minItems": 2, "maxItems": 2}}
    return _object({"regions": {"type": "array", "items": _object(region)}})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
