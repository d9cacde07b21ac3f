"""The Gemini API (https://ai.google.dev/api) through google-genai: images, whole videos, safety blocks."""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from sightflow.blocks.extras import is_installed
from sightflow.blocks.models.contract import BatchDelivery, GenerationRequest, Output, ReplyError
from sightflow.blocks.models.engines.providers.batches.gemini_batches import GeminiBatches
from sightflow.blocks.models.engines.providers.batches.vendor_batches import TRANSFER_SECONDS
from sightflow.blocks.models.engines.providers.enforced_schemas import gemini_reply_schema
from sightflow.blocks.models.engines.providers.gemini_files import INLINE_BYTES, UploadedVideos, mime_type
from sightflow.blocks.models.engines.providers.image_encoding import EncodedImage
from sightflow.blocks.models.engines.providers.messages import (
    ProviderError,
    ProviderRequest,
    ProviderResponse,
    as_text,
    as_token_count,
)
from sightflow.blocks.models.engines.providers.rate_limits import parse_duration
from sightflow.blocks.models.engines.providers.transport.bounded_answers import MOST_BYTES, event_hooks
from sightflow.blocks.models.engines.providers.vendor import VendorEngine, VendorSystem
from sightflow.blocks.models.reply_forms import Choices, JsonSchema
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause
from sightflow.schemas.media import DecodedVideo
from sightflow.schemas.vision import Usage, VisionRequest

if TYPE_CHECKING:
    from google import genai
    from google.genai import types

_BLOCKED = re.compile(r"(IMAGE_)?(SAFETY|PROHIBITED_CONTENT|RECITATION)|BLOCKLIST|SPII|MODEL_ARMOR")
# What a 400 or 429 says that no later try changes. Of a quota a day the identifier says so (google.rpc.QuotaFailure).
_FATAL = {
    "User location is not supported": "use a key from another place",
    "credits are depleted": "add credit at Google AI Studio",
    "PerDay": "the quota of the day is used up: run again tomorrow, or raise it at Google AI Studio",
}
_A_FILE = re.compile(r"\bfiles?\b", re.IGNORECASE)
_NETWORK = ("httpx", "httpx2")


class GeminiSystem(VendorSystem, Protocol):
    """What is asked of a system at Google beside its account: where at Vertex AI, if it is reached there, how closely
    media are looked at, and what a video file counts.
    """

    project: str | None
    location: str
    media_resolution: str | None

    def file_usage(self, frames: int, seconds: float) -> Usage: ...


class GeminiEngine(VendorEngine):
    """At Google, by the Gemini API or Vertex AI. A video is sent as it is, with its sound, where text is asked of it:
    regions are asked for by the numbers of frames, which a file does not have.
    """

    enforced_forms = (Choices, JsonSchema)
    forms_of_old_recipes = (Choices, JsonSchema)

    _uploads: UploadedVideos

    def __init__(self, system: GeminiSystem) -> None:
        super().__init__(system)
        self._project, self._location = system.project, system.location
        self._resolution, self._file_usage = system.media_resolution, system.file_usage

    def connect(self) -> genai.Client:
        self._uploads = UploadedVideos(self.clock)
        return self._new_client(self.deadline)

    def _new_client(self, seconds: float, most_bytes: int = MOST_BYTES) -> genai.Client:
        """A client of the SDK; an answer is to be there in so many seconds, and may have so many bytes."""
        from google import genai
        from google.genai import types

        account = self.account
        # The client is kept: a temporary one closes its connections under the call. Time-outs are milliseconds.
        milliseconds = math.ceil(account.timeout * 1000)
        options = types.HttpOptions(
            base_url=account.base_url,
            timeout=milliseconds,
            retry_options=None,
            client_args={"event_hooks": event_hooks(_httpx(), seconds, most_bytes)},
        )
        if self._project is None:
            return genai.Client(api_key=account.key.get_secret_value(), vertexai=False, http_options=options)
        return genai.Client(vertexai=True, project=self._project, location=self._location, http_options=options)

    # --- whole videos ---------------------------------------------------------------------------

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Output]:
        self.load()
        # Counted once for each object and enrichment, not for each prompt.
        distinct = {id(each.request): each.request for each in requests}.values()
        videos = [r.media.sha256 for r in distinct if isinstance(r.media, DecodedVideo) and self._file_type(r)]
        self._uploads.need(videos)
        try:
            return super().generate(requests)
        finally:
            self._uploads.release(self._client, videos)

    def encode_media(self, request: VisionRequest) -> tuple[EncodedImage, ...]:
        return () if self._file_type(request) else super().encode_media(request)

    def _file_type(self, request: VisionRequest) -> str | None:
        """The type of the file, if the video is sent as it is. Vertex AI has no Files API: there a large one is sent as
        its frames.
        """
        media = request.media
        if not isinstance(media, DecodedVideo) or not request.enrichment.capability.gives_text:
            return None
        if self._project and media.source and media.source.stat().st_size > INLINE_BYTES:
            return None
        return mime_type(media)

    def media_tokens(self, request: ProviderRequest) -> int:
        media = request.request.media
        if request.images or not isinstance(media, DecodedVideo):
            return super().media_tokens(request)
        return self._file_usage(len(media.frames), media.duration).input_tokens

    @property
    def counting_problem(self) -> str | None:
        if self._resolution and not self._project:
            return "Google counts at its own resolution, and media_resolution is set"
        return None

    def _counted(self, request: ProviderRequest) -> int:
        """By https://ai.google.dev/api/tokens: the contents that are sent; a large video is uploaded for it."""
        from google.genai import types

        media, model = request.request.media, self.account.model_id
        settings = types.GenerationConfig(media_resolution=_resolution(self._resolution))
        config = types.CountTokensConfig(generation_config=settings) if self._resolution else None
        videos = [media.sha256] if isinstance(media, DecodedVideo) and self._file_type(request.request) else []
        self._uploads.need(videos)
        try:
            contents, count = self._contents(request), self._client.models.count_tokens
            counted = self.exchange(lambda: count(model=model, contents=contents, config=config))
            return as_token_count(counted.total_tokens)
        finally:
            self._uploads.release(self._client, videos)

    # --- requests -------------------------------------------------------------------------------

    def send(self, request: ProviderRequest) -> ProviderResponse | ProviderError:
        from google.genai import types

        calls_no_function = types.AutomaticFunctionCallingConfig(disable=True)
        config = types.GenerateContentConfig(**self._settings(request), automatic_function_calling=calls_no_function)
        generate, model, contents = self._client.models.generate_content, self.account.model_id, self._contents(request)
        return _read(self.exchange(lambda: generate(model=model, contents=contents, config=config)))

    def _settings(self, request: ProviderRequest) -> dict[str, Any]:
        """How it is answered, in the words of `types.GenerationConfig`."""
        from google.genai import types

        profile, schema = self._vendor_system.profile, gemini_reply_schema(self.form(request))
        return {
            "temperature": profile.temperature,
            "candidate_count": 1,
            "max_output_tokens": request.prompt.max_new_tokens + profile.thinking_tokens,
            "thinking_config": types.ThinkingConfig(**profile.thinking),
            "media_resolution": _resolution(self._resolution),
            "response_mime_type": "application/json" if schema else None,
            "response_json_schema": schema,
        }

    def _contents(self, request: ProviderRequest) -> list[types.Content]:
        from google.genai import types

        media, file_type, parts = request.request.media, self._file_type(request.request), []
        if isinstance(media, DecodedVideo) and file_type:
            parts.append(self._uploads.part(self._client, media, file_type))
        for title, image in request.shown:
            parts += [types.Part.from_text(text=title)] if title else []
            parts.append(types.Part.from_bytes(data=image.data, mime_type=image.mime_type))
        contents = [types.Content(role="user", parts=[*parts, types.Part.from_text(text=request.prompt.text)])]
        if request.correction:
            reply, complaint = request.correction
            contents.append(types.Content(role="model", parts=[types.Part.from_text(text=reply)]))
            contents.append(types.Content(role="user", parts=[types.Part.from_text(text=complaint)]))
        return contents

    # --- batches --------------------------------------------------------------------------------

    def batch_problem(self, enrichment: Enrichment, media_kind: MediaKind) -> str | None:
        if self._project:
            return "batches at Vertex AI go through a bucket of Google's, and are not spoken here"
        if media_kind is MediaKind.VIDEO and enrichment.capability.gives_text:
            return "it is sent whole videos, which would have to stay with Google until the batch is done"
        return super().batch_problem(enrichment, media_kind)

    def connect_batches(self) -> BatchDelivery:
        return GeminiBatches(self, lambda most_bytes: self._new_client(TRANSFER_SECONDS, most_bytes))

    def batch_body(self, request: ProviderRequest) -> dict[str, Any]:
        from google.genai import types

        settings = types.GenerationConfig(**self._settings(request))
        as_json: dict[str, Any] = {"mode": "json", "by_alias": True, "exclude_none": True}
        return {
            "contents": [content.model_dump(**as_json) for content in self._contents(request)],
            "generationConfig": settings.model_dump(**as_json),
        }

    def read_batch_body(self, body: Any) -> ProviderResponse | ProviderError:
        from google.genai import types

        return _read(types.GenerateContentResponse._from_response(response=body, kwargs={}))

    def read_batch_error(self, status: int | None, error: Any) -> ProviderError:
        said = error if isinstance(error, dict) else {}
        return _declined(status, as_text(said.get("message")), as_text(error))

    # --- answers --------------------------------------------------------------------------------

    def map_error(self, error: Exception) -> ProviderError:
        from google.genai import errors

        if isinstance(error, ReplyError):
            return ProviderError(None, str(error), cause=error.cause)
        if isinstance(error, errors.APIError):
            headers = dict(getattr(error.response, "headers", None) or {})
            message, details = as_text(error.message) or as_text(error.status), as_text(error.details)
            return _declined(error.code, message, details, headers)
        if type(error).__module__.startswith("google.auth"):  # no credentials, or they were refused
            why = self.redact(f"no access to Vertex AI: {error}")
            fatal = f"{why}; log in with `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
            return ProviderError(None, why, fatal_reason=fatal)
        # Time-outs and broken connections leak from whichever HTTP library the SDK found.
        network = type(error).__module__.partition(".")[0] in _NETWORK
        if network or isinstance(error, errors.UnknownApiResponseError | json.JSONDecodeError):
            return ProviderError(None, f"{type(error).__name__}: {error}")
        raise error


def _resolution(setting: str | None) -> types.MediaResolution | None:
    from google.genai import types

    return types.MediaResolution(f"MEDIA_RESOLUTION_{setting.upper()}") if setting else None


def _httpx() -> Any:
    """The HTTP library that the SDK uses: the fork where there is one."""
    return importlib.import_module(next(name for name in reversed(_NETWORK) if is_installed(name)))


def _declined(code: int | None, message: str, details: str, headers: Mapping[str, str] | None = None) -> ProviderError:
    """What an error of Google's means, that of a request or of a line of a batch; `details`: all of it, as JSON."""
    headers = headers or {}
    status = 401 if "API_KEY_INVALID" in details else code
    fatal = next((f"{message}; {remedy}" for said, remedy in _FATAL.items() if said in details), "")
    if status in (403, 404) and _A_FILE.search(message):  # this item's upload is gone, not the key or the model
        return ProviderError(status, message, headers, Cause.MODEL)
    delay = re.search(r'"retryDelay": "([0-9.]+s)"', details)
    wait = parse_duration(delay.group(1)) if delay else None
    return ProviderError(status, message, headers, fatal_reason=fatal, retry_after=wait)


def _read(response: types.GenerateContentResponse) -> ProviderResponse | ProviderError:
    answer, usage = _read_candidate(response), response.usage_metadata
    if usage is None or isinstance(answer, ProviderError):
        return answer
    heard = [each.token_count for each in usage.prompt_tokens_details or () if each.modality == "AUDIO"]
    return replace(
        answer,
        cached_input_tokens=as_token_count(usage.cached_content_token_count),
        audio_input_tokens=sum(map(as_token_count, heard)),
    )


def _read_candidate(response: types.GenerateContentResponse) -> ProviderResponse | ProviderError:
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
        why = "the reply has no candidates"
        return ProviderResponse("", *spent, cause=Cause.MALFORMED, why=why, headers=headers)
    if len(response.candidates) > 1:
        why = f"the reply has {len(response.candidates)} candidates, and one was asked for"
        return ProviderResponse("", *spent, cause=Cause.MALFORMED, why=why, headers=headers)
    candidate = response.candidates[0]
    parts = (candidate.content.parts if candidate.content else None) or []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    ended = candidate.finish_reason.name if candidate.finish_reason else "STOP"
    if _BLOCKED.fullmatch(ended):
        why = f"the reply was blocked: {ended}"
        return ProviderResponse(text, *spent, cause=Cause.REFUSED, why=why, headers=headers)
    if ended != "MAX_TOKENS" and (ended != "STOP" or not text):
        why = f"the reply is empty or broken off: {ended}"
        return ProviderResponse(text, *spent, cause=Cause.MALFORMED, why=why, headers=headers)
    return ProviderResponse(text, *spent, truncated=ended == "MAX_TOKENS", headers=headers)
