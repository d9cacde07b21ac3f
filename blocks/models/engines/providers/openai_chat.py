"""OpenAI's chat completions (https://platform.openai.com/docs/api-reference/chat), at OpenAI or elsewhere."""

from __future__ import annotations

import importlib
import json
from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from sightflow.blocks.models.engines.providers.bounded_answers import TIMEOUTS, event_hooks
from sightflow.blocks.models.engines.providers.enforced_schemas import response_format
from sightflow.blocks.models.engines.providers.engine import ProviderEngine
from sightflow.blocks.models.engines.providers.messages import (
    ProviderError,
    ProviderRequest,
    ProviderResponse,
    as_text,
    as_token_count,
)
from sightflow.blocks.models.engines.providers.vendor import VendorEngine, VendorSystem
from sightflow.blocks.models.reply_forms import Choices, JsonSchema
from sightflow.schemas.failure import Cause

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletion

_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_TEXT_PARTS = ("text", "output_text")
_REFUSED = frozenset({"content_policy_violation", "content_filter"})


class OpenAIChat(ProviderEngine):
    """The protocol, without what one server wants beside it."""

    image_detail: str | None = None
    """How closely an image is looked at, where the server asks."""

    @abstractmethod
    def parameters(self, request: ProviderRequest) -> dict[str, Any]:
        """The keywords of one request beside model and messages."""

    def connect(self) -> openai.OpenAI:
        return self.client(self.account.timeout)

    def client(self, timeout: float) -> openai.OpenAI:
        """A client with its own retries off."""
        import openai

        account = self.account
        # The SDK insists on a key; servers without one take any.
        key = account.key.get_secret_value() or "none"
        # Newer releases of the SDK are on httpx's fork, httpx2.
        names = [base.__module__.partition(".")[0] for base in openai.DefaultHttpxClient.__mro__]
        httpx = importlib.import_module(next(name for name in names if name.startswith("httpx")))
        http = openai.DefaultHttpxClient(event_hooks=event_hooks(httpx, TIMEOUTS * timeout))
        usual: dict[str, Any] = {
            "timeout": timeout,
            "max_retries": 0,
            "http_client": http,
            "default_headers": dict(account.headers),
        }
        if account.azure_api_version is None:
            return openai.OpenAI(api_key=account.token or key, base_url=account.base_url, **usual)
        return openai.AzureOpenAI(
            api_key=None if account.token else key,
            azure_ad_token_provider=account.token,
            azure_endpoint=account.base_url or "",
            api_version=account.azure_api_version,
            **usual,
        )

    def send(self, request: ProviderRequest) -> ProviderResponse | ProviderError:
        return self.complete(request, self.parameters(request))

    def complete(self, request: ProviderRequest, parameters: dict[str, Any]) -> ProviderResponse:
        """Send one request with these keywords. Raises what the SDK raises."""
        create = self._client.chat.completions.with_raw_response.create
        keywords = {
            "model": self.account.deployment or self.account.model_id,
            "messages": self._messages(request),
            **parameters,
        }
        response = self.exchange(lambda: create(**keywords))
        completion = response.parse()
        if isinstance(completion, str):  # what the SDK makes of an answer that is not called JSON: a gateway's page
            raise json.JSONDecodeError("the answer is not JSON", completion, 0)
        return read_completion(completion, dict(response.headers), response.text)

    def _messages(self, request: ProviderRequest) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = []
        detail = {"detail": self.image_detail} if self.image_detail else {}
        for title, image in request.shown:
            content += [{"type": "text", "text": title}] if title else []
            content.append({"type": "image_url", "image_url": {"url": image.data_url, **detail}})
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": request.prompt.text}]}]
        if request.correction:
            reply, complaint = request.correction
            messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": complaint}]
        return messages

    def map_error(self, error: Exception) -> ProviderError:
        import openai

        if isinstance(error, openai.APIStatusError):
            headers, code = dict(error.response.headers), error.code or error.type or ""
            if code in _NO_CREDIT:
                vendor = self.account.vendor
                fatal = f"the account has no credit left ({code}); add some, or raise its limit, at {vendor}"
                return ProviderError(error.status_code, error.message, headers, fatal_reason=fatal)
            cause = Cause.REFUSED if code in _REFUSED else None
            return ProviderError(error.status_code, error.message, headers, cause)
        if type(error).__module__.startswith("azure."):  # no credential was found, or Entra refused it
            why = self.redact(f"no token of Microsoft Entra: {error}")
            return ProviderError(None, why, fatal_reason=f"{why}; log in with `az login`, or name a credential")
        if isinstance(error, openai.APIConnectionError | json.JSONDecodeError):
            return ProviderError(None, f"{type(error).__name__}: {error}")
        raise error


class OpenAISystem(VendorSystem, Protocol):
    """What is asked of a system at OpenAI beside its account."""

    @property
    def asked_detail(self) -> str: ...


class OpenAIEngine(OpenAIChat, VendorEngine):
    """At OpenAI: the form of a reply is enforced by a strict JSON schema."""

    enforced_forms = (Choices, JsonSchema)
    forms_of_old_recipes = (Choices, JsonSchema)

    def __init__(self, system: OpenAISystem) -> None:
        super().__init__(system)
        self.image_detail = system.asked_detail

    @property
    def counting_problem(self) -> str | None:
        return None

    def _counted(self, request: ProviderRequest) -> int:
        """By https://platform.openai.com/docs/api-reference/responses/input-tokens: as the request that is sent to chat
        completions, in the words of the Responses API.
        """
        content: list[dict[str, Any]] = []
        for title, image in request.shown:
            content += [{"type": "input_text", "text": title}] if title else []
            content.append({"type": "input_image", "image_url": image.data_url, "detail": self.image_detail})
        content.append({"type": "input_text", "text": request.prompt.text})
        form = response_format(self.form(request))
        held = {"text": {"format": _flat(form["response_format"])}} if form else {}
        model, asked = self.account.deployment or self.account.model_id, [{"role": "user", "content": content}]
        count = self._client.responses.input_tokens.count
        return as_token_count(self.exchange(lambda: count(model=model, input=asked, **held)).input_tokens)

    def parameters(self, request: ProviderRequest) -> dict[str, Any]:
        profile = self._vendor_system.profile
        limit = request.prompt.max_new_tokens + profile.thinking_tokens
        return dict(profile.sampling) | {"max_completion_tokens": limit} | response_format(self.form(request))


def _flat(response_format: dict[str, Any]) -> dict[str, Any]:
    """The form of a reply as the Responses API takes it, where chat completions have it one level deeper."""
    return {"type": response_format["type"], **response_format["json_schema"]}


def content_text(content: Any) -> str:
    """The text of a message: a string, or the parts of a list that are text; thinking among them is no answer."""
    if not isinstance(content, list):
        return as_text(content)
    parts = [part for part in content if isinstance(part, dict) and part.get("type", "text") in _TEXT_PARTS]
    return "".join(as_text(part.get("text")) for part in parts)


def read_completion(completion: ChatCompletion, headers: dict[str, str], body: str) -> ProviderResponse:
    """What a chat completion says; `body` is its JSON, kept where there is no text to keep."""
    details = completion.usage.prompt_tokens_details if completion.usage else None
    return replace(
        _read_choice(completion, headers, body),
        cached_input_tokens=as_token_count(getattr(details, "cached_tokens", 0)),
        cache_write_tokens=as_token_count(getattr(details, "cache_write_tokens", 0)),
        audio_input_tokens=as_token_count(getattr(details, "audio_tokens", 0)),
    )


def _read_choice(completion: ChatCompletion, headers: dict[str, str], body: str) -> ProviderResponse:
    usage = completion.usage
    spent = (as_token_count(usage.prompt_tokens), as_token_count(usage.completion_tokens)) if usage else (0, 0)
    served = as_text(completion.model) or None
    if not completion.choices:
        why = "the reply has no choices"
        return ProviderResponse(body, *spent, served, cause=Cause.MALFORMED, why=why, headers=headers)
    if len(completion.choices) > 1:
        why = f"the reply has {len(completion.choices)} choices, and one was asked for"
        return ProviderResponse(body, *spent, served, cause=Cause.MALFORMED, why=why, headers=headers)
    choice = completion.choices[0]
    text, cut = content_text(choice.message.content), choice.finish_reason == "length"
    if choice.message.refusal or choice.finish_reason == "content_filter":
        why = as_text(choice.message.refusal) or "the provider's content filter stopped the reply"
        return ProviderResponse(text or why, *spent, served, cause=Cause.REFUSED, why=why, headers=headers)
    if not text and not cut:
        return ProviderResponse(body, *spent, served, cause=Cause.MALFORMED, why="the reply is empty", headers=headers)
    return ProviderResponse(text, *spent, served, truncated=cut, headers=headers)
