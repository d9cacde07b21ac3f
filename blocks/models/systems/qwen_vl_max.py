"""Qwen-VL-Max and the Qwen3 line that follows it, over DashScope's own API."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import requests
from requests.adapters import HTTPAdapter

from sightflow.blocks.models.engines.providers.image_encoding import Size, on_grid
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
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause
from sightflow.schemas.geometry import PER_MILLE, PIXELS_SEEN, BoxFormat, ImageTransform
from sightflow.schemas.media import DecodedVideo
from sightflow.schemas.ratings import rated
from sightflow.schemas.vision import ModelRef, VisionRequest

if TYPE_CHECKING:
    from dashscope.api_entities.dashscope_response import MultiModalConversationResponse


@dataclass(frozen=True)
class QwenProfile(HostedProfile):
    """`grid`: one visual token is a square of so many pixels a side, at most `visual_tokens` of them. `boxes`: in
    thousandths, or in pixels of the resized picture. `thinks`: never, by default, or always.
    """

    grid: int = 32
    visual_tokens: int = 2560
    boxes: Literal["thousandths", "pixels"] = "thousandths"
    thinks: Literal["never", "by default", "always"] = "by default"


# As read in November 2026 at alibabacloud.com/help/en/model-studio: /models, /vision, /rate-limit, /error-code.
_LIMITS: Mapping[str, Any] = {"requests_per_minute": 1200, "tokens_per_minute": 1_000_000}
_2_5: dict[str, Any] = {"grid": 28, "visual_tokens": 1280, "boxes": "pixels", "thinks": "never"}
_END: Mapping[str, Any] = {"ends": "2026-07", "successor": "qwen3.7-plus"}
_PROFILES = {
    "qwen-vl-max": QwenProfile(0.80, 3.20, **_2_5, **_END, **_LIMITS),
    "qwen-vl-max-2025-08-13": QwenProfile(0.80, 3.20, **(_2_5 | {"grid": 32}), **_END, **_LIMITS),
    "qwen-vl-plus": QwenProfile(0.21, 0.63, **_2_5, **_END, **_LIMITS),
    "qwen2.5-vl-72b-instruct": QwenProfile(2.80, 8.40, **_2_5, **_END),
    "qwen3-vl-plus": QwenProfile(0.20, 1.60, thinks="never", **_LIMITS),
    "qwen3-vl-flash": QwenProfile(0.05, 0.40, thinks="never", **_LIMITS),
    "qwen3.5-plus": QwenProfile(0.40, 2.40),
    "qwen3.5-flash": QwenProfile(0.10, 0.40),
    "qwen3.7-plus": QwenProfile(0.40, 1.60),
    "qwen3.8-flash": QwenProfile(0.15, 0.47),
    "qwen3.8-max": QwenProfile(2.50, 7.50, thinks="always", thinking_tokens=4096),
}
_RETIRED = {"qwen-vl-v1": "qwen3.7-plus", "qwen-vl-chat-v1": "qwen3.7-plus"}

_BOX_FORMS = {
    "thousandths": '"bbox_2d": [x_min, y_min, x_max, y_max] on a scale from 0 to 1000',
    "pixels": '"bbox_2d": [x_min, y_min, x_max, y_max] in pixels of the picture',
}
_LEAST_FRAMES = 4  # of a list of frames
_POLYGON_FORM = '"polygon": [[x, y], ...], its outline in the same units'


class QwenVLMax(HostedVisionModel):
    """Qwen-VL-Max: top in Chinese, strong at grounding.

    The 2.5 generation names boxes in pixels of the picture as it resized it, so pictures are sent at a size that
    it leaves alone; the Qwen3 line names them in thousandths.
    """

    _block_type_name = "Sightflow Qwen-VL-Max"
    _block_type_slug = "sightflow-qwen-vl-max"

    rating = rated("qwen-vl-max")
    box_format = PER_MILLE
    vendor = "Alibaba Cloud"
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
    def space(self) -> BoxFormat:
        return PIXELS_SEEN if self.profile.boxes == "pixels" else PER_MILLE

    def image_transform(self, request: VisionRequest) -> ImageTransform:
        media = request.media
        if self.profile.boxes == "pixels":
            return ImageTransform.resized(media.width, media.height, *self.shown_size(media))
        return super().image_transform(request)

    def connect(self, key: str) -> requests.Session:
        from dashscope.common.logging import logger

        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)  # it prints a traceback for every try that fails
        session = _OneTry()
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=self.max_concurrency))
        return session

    def generation_settings(self) -> dict[str, Any]:
        return super().generation_settings() | self._sampling

    @property
    def _sampling(self) -> dict[str, Any]:
        thinking = {"enable_thinking": False} if self.profile.thinks == "by default" else {}
        return {"temperature": 0.0, "seed": 0, **thinking}

    # --- pictures -------------------------------------------------------------------------------

    def sent_size(self, size: Size) -> Size:
        cell = self.profile.grid**2
        return on_grid(size, self.profile.grid, 4 * cell, self.profile.visual_tokens * cell)

    def image_tokens(self, size: Size) -> int:
        width, height = self.sent_size(size)
        return (width // self.profile.grid) * (height // self.profile.grid) + 2

    # --- asking ---------------------------------------------------------------------------------

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        box_form = _BOX_FORMS[self.profile.boxes]
        return media_prompts(enrichment, media_kind, self.max_new_tokens, box_form, _POLYGON_FORM)

    def send(self, question: ProviderRequest) -> ProviderResponse | ProviderError:
        import dashscope

        called = dashscope.MultiModalConversation.call(
            model=self.ref.id,
            messages=self._messages(question),
            api_key=self._key(),
            base_address=self.base_url,
            session=self._client,
            request_timeout=self.timeout,
            max_tokens=question.prompt.max_new_tokens + self.profile.thinking_tokens,
            result_format="message",
            **self._sampling,
        )
        response = cast("MultiModalConversationResponse", called)  # the SDK's other kind is a stream
        return _read(response) if response.status_code == 200 else _map_failure(response)

    def _messages(self, question: ProviderRequest) -> list[dict[str, Any]]:
        cell = self.profile.grid**2
        bounds = {"min_pixels": 4 * cell, "max_pixels": self.profile.visual_tokens * cell}
        content: list[dict[str, Any]] = []
        media, text_only = question.request.media, question.request.enrichment.capability.gives_text
        if isinstance(media, DecodedVideo) and text_only and len(media.frames) >= _LEAST_FRAMES:
            content.append({"video": [image.data_url for image in question.images], "fps": _rate(media)})
        else:  # regions are asked for by the numbers of frames, which a list of frames does not have
            for title, image in question.shown:
                content += [{"text": _plain(title)}] if title else []
                content.append({"image": image.data_url, **bounds})
        messages = [{"role": "user", "content": [*content, {"text": _plain(question.prompt.text)}]}]
        if question.correction:
            said, complaint = question.correction
            messages.append({"role": "assistant", "content": [{"text": said}]})
            messages.append({"role": "user", "content": [{"text": _plain(complaint)}]})
        return messages

    def map_error(self, error: Exception) -> ProviderError:
        if isinstance(error, _NoAnswer | requests.RequestException):
            return ProviderError(None, f"{type(error).__name__}: {error}")
        raise error


class _NoAnswer(Exception):
    """No whole answer came back; of another type than the one for which the SDK sends once more by itself."""


class _OneTry(requests.Session):
    """A session that hides dropped connections from the SDK, which would repeat a request that may be billed."""

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        try:
            return super().post(*args, **kwargs)
        except requests.RequestException as error:
            message = f"{type(error).__name__}: {error}"
        raise _NoAnswer(message)


def _rate(video: DecodedVideo) -> float:
    """Frames a second of a list of frames, within the bounds that DashScope takes."""
    seconds = video.seconds[-1] - video.seconds[0]
    return round(min(10.0, max(0.1, (len(video.frames) - 1) / seconds if seconds > 0 else 10.0)), 3)


def _plain(text: str) -> str:
    """A text that the SDK cannot take for a path or a URL: it would upload the file that a user's text names."""
    return f"\n{text}\n"


def _read(response: MultiModalConversationResponse) -> ProviderResponse:
    usage: Mapping[str, Any] = response.usage or {}
    output, headers = response.output, dict(response.headers or {})
    spent = (as_token_count(usage.get("input_tokens")), as_token_count(usage.get("output_tokens")))
    choices = output.get("choices") or []
    if not choices or not choices[0].get("message"):
        why = "the reply has no choices"
        return ProviderResponse(as_text(output), *spent, cause=Cause.MALFORMED, why=why, headers=headers)
    content, ended = choices[0]["message"].get("content"), as_text(choices[0].get("finish_reason"))
    parts = [content] if isinstance(content, str) else [part.get("text") for part in content or []]
    text = "".join(as_text(part) for part in parts)
    if not text and ended != "length":
        return ProviderResponse(
            as_text(output), *spent, cause=Cause.MALFORMED, why="the reply is empty", headers=headers
        )
    return ProviderResponse(text, *spent, truncated=ended == "length", headers=headers)


def _map_failure(response: MultiModalConversationResponse) -> ProviderError:
    """Failures come as `status_code`, `code` and `message` of the response; the code says more than the status."""
    code, told = as_text(response.code), f"{as_text(response.code)}: {as_text(response.message)}"
    status, headers = response.status_code, dict(response.headers or {})
    if code.replace("_", "").lower() == "datainspectionfailed":
        return ProviderError(status, told, headers, cause=Cause.REFUSED)
    if code == "Arrearage":
        return ProviderError(
            status, told, headers, fatal_reason=f"the account is in arrears ({told}); settle it at Alibaba Cloud"
        )
    if code.startswith("Throttling"):
        return ProviderError(429, told, headers)
    if code == "ModelNotFound" or "model not exist" in told.lower():
        return ProviderError(404, told, headers)
    return ProviderError(status, told, headers)
