"""OpenAI's chat completions (https://platform.openai.com/docs/api-reference/chat), at OpenAI or elsewhere."""

from __future__ import annotations

import importlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from sightflow.blocks.models.contract import BatchDelivery, BatchLimits
from sightflow.blocks.models.engines.providers.account import Account
from sightflow.blocks.models.engines.providers.batches.openai_batches import OpenAIBatches
from sightflow.blocks.models.engines.providers.batches.vendor_batches import TRANSFER_SECONDS
from sightflow.blocks.models.engines.providers.enforced_schemas import response_format
from sightflow.blocks.models.engines.providers.engine import ProviderEngine
from sightflow.blocks.models.engines.providers.messages import (
    ProviderError,
    ProviderRequest,
    ProviderResponse,
    as_text,
    as_token_count,
)
from sightflow.blocks.models.engines.providers.transport.bounded_answers import MOST_BYTES, TIMEOUTS, event_hooks
from sightflow.blocks.models.engines.providers.vendor import VendorEngine, VendorSystem
from sightflow.blocks.models.reply_forms import Choices, JsonSchema
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause

if TYPE_CHECKING:
    import openai
    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletion

_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_TEXT_PARTS = ("text", "output_text")
_REFUSED = frozenset({"content_policy_violation", "content_filter"})


def openai_client(
    account: Account, timeout: float, seconds: float | None = None, most_bytes: int = MOST_BYTES
) -> openai.OpenAI:
    """A client of the SDK with its own retries off.

    `timeout`: seconds of silence; `seconds`, `most_bytes`: of an answer as a whole.
    """
    import openai

    # The SDK insists on a key; servers without one take any.
    key = account.key.get_secret_value() or "none"
    # Newer releases of the SDK are on httpx's fork, httpx2.
    names = [base.__module__.partition(".")[0] for base in openai.DefaultHttpxClient.__mro__]
    httpx = importlib.import_module(next(name for name in names if name.startswith("httpx")))
    http = openai.DefaultHttpxClient(event_hooks=event_hooks(httpx, seconds or TIMEOUTS * timeout, most_bytes))
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
        return openai_client(self.account, timeout)

    def send(self, request: ProviderRequest) -> ProviderResponse | ProviderError:
        return self.complete(request, self.parameters(request))

    def complete(self, request: ProviderRequest, parameters: dict[str, Any]) -> ProviderResponse:
        """Send one request with these keywords. Raises what the SDK raises."""
        create, keywords = self._client.chat.completions.with_raw_response.create, self.body(request, parameters)
        # The SDK looks through all fields of messages for names to write otherwise. There are none here, and it costs
        # more than anything else on this side. What is extra it puts into the body as it is.
        extra = {**keywords.pop("extra_body", {}), "messages": keywords.pop("messages")}
        response = self.exchange(lambda: create(**keywords, messages=(), extra_body=extra))
        completion = response.parse()
        if isinstance(completion, str):  # what the SDK makes of an answer that is not called JSON: a gateway's page
            raise json.JSONDecodeError("the answer is not JSON", completion, 0)
        return read_completion(completion, dict(response.headers), response.text)

    def body(self, request: ProviderRequest, parameters: dict[str, Any]) -> dict[str, Any]:
        """What is sent, directly or as a line of a batch."""
        model = self.account.deployment or self.account.model_id
        return {"model": model, "messages": self._messages(request), **parameters}

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
            return self.declined(error.status_code, code, error.message, headers)
        if type(error).__module__.startswith("azure."):  # no credential was found, or Entra refused it
            why = self.redact(f"no token of Microsoft Entra: {error}")
            return ProviderError(None, why, fatal_reason=f"{why}; log in with `az login`, or name a credential")
        if isinstance(error, openai.APIConnectionError | json.JSONDecodeError):
            return ProviderError(None, f"{type(error).__name__}: {error}")
        raise error

    def declined(
        self, status: int | None, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> ProviderError:
        """What an error of the protocol means, that of a request or of a line of a batch."""
        if code in _NO_CREDIT:
            vendor = self.account.vendor
            fatal = f"the account has no credit left ({code}); add some, or raise its limit, at {vendor}"
            return ProviderError(status, message, headers or {}, fatal_reason=fatal)
        return ProviderError(status, message, headers or {}, Cause.REFUSED if code in _REFUSED else None)


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

    # --- batches --------------------------------------------------------------------------------

    def batch_problem(self, enrichment: Enrichment, media_kind: MediaKind) -> str | None:
        if self.account.azure_api_version or self.account.deployment or self.account.token:
            return "batches at Azure OpenAI are of deployments of their own, and not spoken here"
        return super().batch_problem(enrichment, media_kind)

    def connect_batches(self) -> BatchDelivery:
        account = self.account
        return OpenAIBatches(
            self,
            BatchLimits(requests=50_000, file_bytes=200_000_000, line_bytes=200_000_000),
            lambda most_bytes: openai_client(account, account.timeout, TRANSFER_SECONDS, most_bytes),
        )

    def batch_body(self, request: ProviderRequest) -> dict[str, Any]:
        return self.body(request, self.parameters(request))

    def read_batch_body(self, body: Any) -> ProviderResponse | ProviderError:
        return read_completion_json(body)

    def read_batch_error(self, status: int | None, error: Any) -> ProviderError:
        said = error if isinstance(error, dict) else {}
        return self.declined(status, as_text(said.get("code") or said.get("type")), as_text(said.get("message")))


def read_completion_json(body: Any) -> ProviderResponse:
    """What a chat completion says, from its JSON as a line of a batch holds it."""
    from openai.types.chat import ChatCompletion

    return read_completion(ChatCompletion.construct(**body), {}, json.dumps(body, ensure_ascii=False))


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


def _spent(usage: CompletionUsage | None) -> tuple[int, int]:
    """Tokens in and out. Some providers (xAI) count reasoning in the total alone, and charge it as they do a reply."""
    if usage is None:
        return 0, 0
    asked, made, whole = map(
        as_token_count, (usage.prompt_tokens, usage.completion_tokens, getattr(usage, "total_tokens", 0))
    )
    return asked, max(made, whole - asked) if asked else made


def _read_choice(completion: ChatCompletion, headers: dict[str, str], body: str) -> ProviderResponse:
    spent = _spent(completion.usage)
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
