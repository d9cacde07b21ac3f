"""Gemini, over the Gemini API: y-first boxes, masks of two generations, safety blocks."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import PrivateAttr

from sightflow.blocks.models.engines.providers.gemini_files import UploadedVideos, mime_type
from sightflow.blocks.models.engines.providers.image_encoding import EncodedImage, Size, fit_within
from sightflow.blocks.models.engines.providers.messages import (
    ProviderError,
    ProviderRequest,
    ProviderResponse,
    as_text,
    as_token_count,
)
from sightflow.blocks.models.engines.providers.rate_limits import parse_duration
from sightflow.blocks.models.hosted_model import HostedVisionModel
from sightflow.blocks.models.model_profiles import HostedProfile
from sightflow.blocks.models.replies.frame_regions import media_prompts
from sightflow.blocks.models.replies.json_regions import ReadMask
from sightflow.blocks.models.replies.png_masks import read_probability_mask
from sightflow.blocks.models.vision_model import Prompt, ReplyError
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause
from sightflow.schemas.geometry import BoxFormat
from sightflow.schemas.media import DecodedVideo
from sightflow.schemas.ratings import rated
from sightflow.schemas.vision import ModelRef, VisionReply, VisionRequest

if TYPE_CHECKING:
    from google import genai
    from google.genai import types


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
_BLOCKED = re.compile(r"(IMAGE_)?(SAFETY|PROHIBITED_CONTENT|RECITATION)|BLOCKLIST|SPII|MODEL_ARMOR")
_A_FILE = re.compile(r"\bfiles?\b", re.IGNORECASE)
_NETWORK = ("httpx", "httpx2")

_BOX_FORM = '"box_2d": [y_min, x_min, y_max, x_max] normalized to 0-1000'
_MASK_FORMS = {
    "png": '"mask": its segmentation mask within the box, as a base64 encoded PNG probability map',
    "polygon": '"mask": its outline as a list of [x, y] points normalized to 0-1000',
}
_SOUND_TOKENS, _FRAME_TOKENS = 32, 258  # a second and a frame of a video file
_NUMBERS = {"type": "array", "items": {"type": "number"}}


class Gemini(HostedVisionModel):
    """Gemini: very long context, video, boxes and masks of its own.

    `box_2d` is [y_min, x_min, y_max, x_max] in thousandths. Masks are a base64 PNG of probabilities inside
    the box (up to 2.5) or a polygon of x-first points in thousandths (from 3 on); either is read.
    """

    _block_type_name = "Sightflow Gemini"
    _block_type_slug = "sightflow-gemini"

    rating = rated("gemini")
    box_format = BoxFormat(scale=1000.0, order="yxyx", point_order="xy")
    vendor = "Google"
    box_keys = ("box_2d",)
    key_variables = ("GOOGLE_API_KEY", "GEMINI_API_KEY")
    profiles = _PROFILES
    fallback_profile = _PROFILES["gemini-3.8-flash"]
    retired = _RETIRED
    default = ModelRef("gemini-3.8-flash", licence="proprietary")

    _uploads: UploadedVideos = PrivateAttr()

    @property
    def profile(self) -> GeminiProfile:
        return cast(GeminiProfile, super().profile)

    def connect(self, key: str) -> genai.Client:
        from google import genai
        from google.genai import types

        self._uploads = UploadedVideos(self._clock)
        # The client is kept: a temporary one closes its connections under the call. Time-outs are milliseconds.
        options = types.HttpOptions(base_url=self.base_url, timeout=math.ceil(self.timeout * 1000), retry_options=None)
        return genai.Client(api_key=key, vertexai=False, http_options=options)

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

    # --- whole videos ---------------------------------------------------------------------------

    def run(self, requests: Sequence[VisionRequest]) -> list[VisionReply]:
        self.prepare()
        videos = [r.media.sha256 for r in requests if isinstance(r.media, DecodedVideo) and self._whole(r)]
        self._uploads.need(videos)
        try:
            return super().run(requests)
        finally:
            self._uploads.release(self._client, videos)

    def _whole(self, request: VisionRequest) -> str | None:
        """The type of the file, if the video is sent as it is: for text, with its sound; places are asked for by
        the numbers of frames, which a file does not have.
        """
        media = request.media
        if not isinstance(media, DecodedVideo) or not request.enrichment.capability.gives_text:
            return None
        return mime_type(media)

    def images(self, request: VisionRequest) -> tuple[EncodedImage, ...]:
        return () if self._whole(request) else super().images(request)

    def media_tokens(self, question: ProviderRequest) -> int:
        media = question.request.media
        if question.images or not isinstance(media, DecodedVideo):
            return super().media_tokens(question)
        return math.ceil(media.duration * _SOUND_TOKENS) + len(media.frames) * _FRAME_TOKENS

    # --- asking ---------------------------------------------------------------------------------

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        mask_form = _MASK_FORMS[self.profile.masks]
        return media_prompts(enrichment, media_kind, self.max_new_tokens, _BOX_FORM, mask_form)

    def send(self, question: ProviderRequest) -> ProviderResponse | ProviderError:
        from google.genai import types

        schema = self._schema(question.request.enrichment, question.request.media.kind)
        config = types.GenerateContentConfig(
            temperature=self.profile.temperature,
            candidate_count=1,
            max_output_tokens=question.prompt.max_new_tokens + self.profile.thinking_tokens,
            thinking_config=types.ThinkingConfig(**self.profile.thinking),
            response_mime_type="application/json" if schema else None,
            response_json_schema=schema,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )
        response = self._client.models.generate_content(
            model=self.ref.id, contents=self._contents(question), config=config
        )
        return _read(response)

    def _contents(self, question: ProviderRequest) -> list[types.Content]:
        from google.genai import types

        media, whole, parts = question.request.media, self._whole(question.request), []
        if isinstance(media, DecodedVideo) and whole:
            parts.append(self._uploads.part(self._client, media, whole))
        for title, image in question.shown:
            parts += [types.Part.from_text(text=title)] if title else []
            parts.append(types.Part.from_bytes(data=image.data, mime_type=image.mime_type))
        contents = [types.Content(role="user", parts=[*parts, types.Part.from_text(text=question.prompt.text)])]
        if question.correction:
            said, complaint = question.correction
            contents.append(types.Content(role="model", parts=[types.Part.from_text(text=said)]))
            contents.append(types.Content(role="user", parts=[types.Part.from_text(text=complaint)]))
        return contents

    def _schema(self, enrichment: Enrichment, media_kind: MediaKind) -> dict[str, Any] | None:
        """The JSON schema of the reply; None for free text."""
        if enrichment.choices:
            return {"type": "string", "enum": list(enrichment.choices)}
        if enrichment.capability.gives_text:
            return None
        names = enrichment.phrases or enrichment.labels
        label = {"type": "string", "enum": list(names)} if names else {"type": "string"}
        region: dict[str, Any] = {"label": label, "box_2d": _NUMBERS | {"minItems": 4, "maxItems": 4}}
        if enrichment.capability is Capability.OBJECT_TRACKING:
            region = {"track": {"type": "integer"}, **region}
        if media_kind is MediaKind.VIDEO:
            region = {"frame": {"type": "integer"}, **region}
        if enrichment.capability is Capability.SEGMENTATION:
            points = {"type": "array", "items": _NUMBERS | {"minItems": 2, "maxItems": 2}}
            region["mask"] = {"type": "string"} if self.profile.masks == "png" else points
        return {"type": "array", "items": {"type": "object", "properties": region, "required": list(region)}}

    @property
    def mask_reader(self) -> ReadMask:
        return read_probability_mask

    def map_error(self, error: Exception) -> ProviderError:
        from google.genai import errors

        if isinstance(error, ReplyError):
            return ProviderError(None, str(error), cause=error.cause)
        if isinstance(error, errors.APIError):
            headers = dict(getattr(error.response, "headers", None) or {})
            told, about = as_text(error.message) or as_text(error.status), as_text(error.details)
            status = 401 if "API_KEY_INVALID" in about else error.code
            fatal_reason = f"{told}; use a key from another place" if "User location is not supported" in about else ""
            if status in (403, 404) and _A_FILE.search(told):  # this item's upload is gone, not the key or the model
                return ProviderError(status, told, headers, Cause.MODEL)
            delay = re.search(r'"retryDelay": "([0-9.]+s)"', about)
            wait = parse_duration(delay.group(1)) if delay else None
            return ProviderError(status, told, headers, fatal_reason=fatal_reason, retry_after=wait)
        # Time-outs and broken connections leak from whichever HTTP library the SDK found.
        network = type(error).__module__.partition(".")[0] in _NETWORK
        if network or isinstance(error, errors.UnknownApiResponseError | json.JSONDecodeError):
            return ProviderError(None, f"{type(error).__name__}: {error}")
        raise error


def _read(response: types.GenerateContentResponse) -> ProviderResponse | ProviderError:
    usage, http, feedback = response.usage_metadata, response.sdk_http_response, response.prompt_feedback
    headers = dict((http.headers if http else None) or {})
    if usage is None and feedback is None and not response.candidates:
        return ProviderError(None, "an answer without content", headers)
    made = as_token_count(usage.candidates_token_count) + as_token_count(usage.thoughts_token_count) if usage else 0
    spent = (as_token_count(usage.prompt_token_count) if usage else 0, made, response.model_version)
    if not response.candidates:
        if feedback and feedback.block_reason:
            why = f"the prompt was blocked: {feedback.block_reason.name}"
            return ProviderResponse("", *spent, cause=Cause.REFUSED, why=why, headers=headers)
        return ProviderResponse("", *spent, cause=Cause.MALFORMED, why="the reply has no candidates", headers=headers)
    candidate = response.candidates[0]
    parts = (candidate.content.parts if candidate.content else None) or []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    ended = candidate.finish_reason.name if candidate.finish_reason else "STOP"
    if _BLOCKED.fullmatch(ended):
        return ProviderResponse(
            text, *spent, cause=Cause.REFUSED, why=f"the reply was blocked: {ended}", headers=headers
        )
    if ended != "MAX_TOKENS" and (ended != "STOP" or not text):
        why = f"the reply is empty or broken off: {ended}"
        return ProviderResponse(text, *spent, cause=Cause.MALFORMED, why=why, headers=headers)
    return ProviderResponse(text, *spent, truncated=ended == "MAX_TOKENS", headers=headers)
