"""DashScope's own API (https://www.alibabacloud.com/help/en/model-studio) through its SDK: images and frame lists."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from sightflow.blocks.extras import install_command, is_installed
from sightflow.blocks.models.contract import BatchDelivery, BatchLimits
from sightflow.blocks.models.engines.providers.batches.openai_batches import OpenAIBatches
from sightflow.blocks.models.engines.providers.batches.vendor_batches import TRANSFER_SECONDS
from sightflow.blocks.models.engines.providers.enforced_schemas import json_mode
from sightflow.blocks.models.engines.providers.messages import (
    ProviderError,
    ProviderRequest,
    ProviderResponse,
    as_text,
    as_token_count,
)
from sightflow.blocks.models.engines.providers.openai_chat import openai_client, read_completion_json
from sightflow.blocks.models.engines.providers.vendor import VendorEngine, VendorSystem
from sightflow.blocks.models.reply_forms import JsonSchema
from sightflow.blocks.models.token_rules.qwen import LEAST_FRAMES, Cells
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause
from sightflow.schemas.media import DecodedVideo

if TYPE_CHECKING:
    import requests
    from dashscope.api_entities.dashscope_response import MultiModalConversationResponse

# As read in November 2026 at alibabacloud.com/help/en/model-studio/batch-interfaces-compatible-with-openai.
_IN_BATCHES = (
    "qwen-vl-max",
    "qwen-vl-plus",
    "qwen3-vl-plus",
    "qwen3-vl-flash",
    "qwen3.5-plus",
    "qwen3.5-flash",
    "qwen3.7-plus",
)
_ELSEWHERE = re.compile(r"//(?:dashscope-(?:intl|us)\.|[^/]*(?<!cn-beijing)\.maas\.aliyuncs\.com)")


class DashScopeSystem(VendorSystem, Protocol):
    """What is asked of a system at DashScope beside its account."""

    @property
    def sampling_parameters(self) -> dict[str, Any]: ...


class DashScopeEngine(VendorEngine):
    """At Alibaba Cloud. Failures come as fields of the response, not as exceptions."""

    enforced_forms = (JsonSchema,)

    def __init__(self, system: DashScopeSystem) -> None:
        super().__init__(system)
        self._sampling = system.sampling_parameters

    def connect(self) -> requests.Session:
        from dashscope.common.logging import logger
        from requests.adapters import HTTPAdapter

        from sightflow.blocks.models.engines.providers.transport.dashscope_session import OneTry

        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)  # it prints a traceback for every try that fails
        session = OneTry(self.deadline)
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=self.account.max_concurrency))
        return session

    def send(self, request: ProviderRequest) -> ProviderResponse | ProviderError:
        import dashscope

        account = self.account
        called = self.exchange(
            lambda: dashscope.MultiModalConversation.call(
                model=account.model_id,
                messages=self._messages(request),
                api_key=account.key.get_secret_value(),
                base_address=account.base_url,
                session=self._client,
                request_timeout=account.timeout,
                result_format="message",
                **self._parameters(request),
            )
        )
        response = cast("MultiModalConversationResponse", called)  # the SDK's other kind is a stream
        return _read(response) if response.status_code == 200 else _failed(response)

    def _parameters(self, request: ProviderRequest) -> dict[str, Any]:
        """What is said beside model and messages, in either of the vendor's protocols."""
        profile = self._vendor_system.profile
        limit = {"max_tokens": request.prompt.max_new_tokens + profile.thinking_tokens}
        return limit | self._sampling | ({} if profile.thinks == "always" else json_mode(self.form(request)))

    def _messages(self, request: ProviderRequest) -> list[dict[str, Any]]:
        profile = self._vendor_system.profile
        cell = profile.cells.side**2
        bounds = {"min_pixels": 4 * cell, "max_pixels": profile.cells.most * cell}
        content: list[dict[str, Any]] = []
        if isinstance(media := request.request.media, DecodedVideo) and _is_frame_list(request):
            content.append({"video": [image.data_url for image in request.images], "fps": _rate(media)})
        else:
            for title, image in request.shown:
                content += [{"text": _no_path(title)}] if title else []
                content.append({"image": image.data_url, **bounds})
        messages = [{"role": "user", "content": [*content, {"text": _no_path(request.prompt.text)}]}]
        if request.correction:
            reply, complaint = request.correction
            messages.append({"role": "assistant", "content": [{"text": reply}]})
            messages.append({"role": "user", "content": [{"text": _no_path(complaint)}]})
        return messages

    def media_tokens(self, request: ProviderRequest) -> int:
        if not request.images or not _is_frame_list(request):
            return super().media_tokens(request)
        image = request.images[0]
        cells: Cells = self._vendor_system.profile.cells
        return cells.video_tokens((image.width, image.height), len(request.images))

    # --- batches, by the vendor's OpenAI-compatible protocol ------------------------------------

    def batch_problem(self, enrichment: Enrichment, media_kind: MediaKind) -> str | None:
        if not is_installed("openai"):
            return f"its batches are spoken by OpenAI's SDK; run: {install_command('openai')}"
        if _ELSEWHERE.search(self._native_address):
            return "Alibaba Cloud does batches of models that see in Beijing only"
        model_id = self.account.model_id
        if not any(model_id == known or model_id.startswith(f"{known}-20") for known in _IN_BATCHES):
            return f"Alibaba Cloud does no batches of {model_id}"
        return super().batch_problem(enrichment, media_kind)

    @property
    def _native_address(self) -> str:
        import dashscope

        return self.account.base_url or str(dashscope.base_http_api_url)

    def connect_batches(self) -> BatchDelivery:
        address = self._native_address.rstrip("/").removesuffix("/api/v1")
        account = replace(self.account, base_url=f"{address}/compatible-mode/v1")
        return OpenAIBatches(
            self,
            BatchLimits(requests=50_000, file_bytes=500_000_000, line_bytes=6_000_000),
            lambda most_bytes: openai_client(account, account.timeout, TRANSFER_SECONDS, most_bytes),
            name_key="ds_name",
        )

    def batch_body(self, request: ProviderRequest) -> dict[str, Any]:
        messages = [
            {**message, "content": [_compatible(part) for part in message["content"]]}
            for message in self._messages(request)
        ]
        return {"model": self.account.model_id, "messages": messages, **self._parameters(request)}

    def read_batch_body(self, body: Any) -> ProviderResponse | ProviderError:
        # The vendor's own protocol does not say who answered: a row is the same by either.
        return replace(read_completion_json(body), served_id=None)

    def read_batch_error(self, status: int | None, error: Any) -> ProviderError:
        said = error if isinstance(error, dict) else {}
        return _declined(status, as_text(said.get("code")), as_text(said.get("message")))

    def map_error(self, error: Exception) -> ProviderError:
        if type(error).__module__.partition(".")[0] == "openai":
            return self._map_openai_error(error)
        from requests import RequestException

        from sightflow.blocks.models.engines.providers.transport.dashscope_session import NoAnswer

        if isinstance(error, NoAnswer | RequestException):
            return ProviderError(None, f"{type(error).__name__}: {error}")
        raise error

    def _map_openai_error(self, error: Exception) -> ProviderError:
        import openai

        if isinstance(error, openai.APIStatusError):
            code = as_text(error.code or error.type)
            return _declined(error.status_code, code, error.message, dict(error.response.headers))
        if isinstance(error, openai.APIConnectionError):
            return ProviderError(None, f"{type(error).__name__}: {error}")
        raise error


def _compatible(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a message of the vendor's own protocol in its OpenAI-compatible one
    (https://www.alibabacloud.com/help/en/model-studio/qwen-vl-compatible-with-openai).
    """
    if "text" in part:
        return {"type": "text", "text": part["text"]}
    if "video" in part:
        return {"type": "video", **part}
    rest = {key: value for key, value in part.items() if key != "image"}
    return {"type": "image_url", "image_url": {"url": part["image"]}, **rest}


def _is_frame_list(request: ProviderRequest) -> bool:
    """Whether a video is sent as one list of its frames: regions are asked for by numbers, which a list has not."""
    media, text_only = request.request.media, request.request.enrichment.capability.gives_text
    return isinstance(media, DecodedVideo) and text_only and len(media.frames) >= LEAST_FRAMES


def _rate(video: DecodedVideo) -> float:
    """Frames a second of a list of frames, within the bounds that DashScope takes."""
    seconds = video.seconds[-1] - video.seconds[0]
    return round(min(10.0, max(0.1, (len(video.frames) - 1) / seconds if seconds > 0 else 10.0)), 3)


def _no_path(text: str) -> str:
    """A text that the SDK cannot take for a path or a URL: it would upload the file that a user's text names."""
    return f"\n{text}\n"


def _read(response: MultiModalConversationResponse) -> ProviderResponse:
    usage: Mapping[str, Any] = response.usage or {}
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    cached = as_token_count(details.get("cached_tokens")) if isinstance(details, Mapping) else 0
    return replace(_read_choice(response, usage), cached_input_tokens=cached)


def _read_choice(response: MultiModalConversationResponse, usage: Mapping[str, Any]) -> ProviderResponse:
    output, headers = response.output, dict(response.headers or {})
    spent = (as_token_count(usage.get("input_tokens")), as_token_count(usage.get("output_tokens")))
    choices = output.get("choices") or []
    if not choices or not choices[0].get("message"):
        why = "the reply has no choices"
        return ProviderResponse(as_text(output), *spent, cause=Cause.MALFORMED, why=why, headers=headers)
    if len(choices) > 1:
        why = f"the reply has {len(choices)} choices, and one was asked for"
        return ProviderResponse(as_text(output), *spent, cause=Cause.MALFORMED, why=why, headers=headers)
    content, ended = choices[0]["message"].get("content"), as_text(choices[0].get("finish_reason"))
    parts = (
        [content]
        if isinstance(content, str)
        else [part.get("text") for part in content or [] if isinstance(part, dict)]
    )
    text = "".join(as_text(part) for part in parts)
    if not text and ended != "length":
        why = "the reply is empty"
        return ProviderResponse(as_text(output), *spent, cause=Cause.MALFORMED, why=why, headers=headers)
    return ProviderResponse(text, *spent, truncated=ended == "length", headers=headers)


def _failed(response: MultiModalConversationResponse) -> ProviderError:
    """Failures come as `status_code`, `code` and `message` of the response; the code says more than the status."""
    status, headers = response.status_code, dict(response.headers or {})
    return _declined(status, as_text(response.code), as_text(response.message), headers)


def _declined(status: int | None, code: str, said: str, headers: Mapping[str, str] | None = None) -> ProviderError:
    """What an error of DashScope's means, that of a request or of a line of a batch."""
    message, headers = f"{code}: {said}", headers or {}
    if code.replace("_", "").lower() == "datainspectionfailed":
        return ProviderError(status, message, headers, cause=Cause.REFUSED)
    if code == "Arrearage":
        fatal = f"the account is in arrears ({message}); settle it at Alibaba Cloud"
        return ProviderError(status, message, headers, fatal_reason=fatal)
    if code.startswith("Throttling"):
        return ProviderError(429, message, headers)
    if code == "ModelNotFound" or "model not exist" in message.lower():
        return ProviderError(404, message, headers)
    return ProviderError(status, message, headers)
