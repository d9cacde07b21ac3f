"""OpenAI's chat completions on loopback."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from tests.loopback.batches.openai_routes import OpenAIBatchRoutes, OpenAIBatchService, written
from tests.loopback.server import LoopbackProvider, Received, Say, Status, exhausted

_REQUEST = TypeAdapter(CompletionCreateParamsNonStreaming)
_KNOWN = set().union(*(getattr(c, "__annotations__", {}) for c in CompletionCreateParamsNonStreaming.__mro__)) | set(
    CompletionCreateParamsNonStreaming.__required_keys__ | CompletionCreateParamsNonStreaming.__optional_keys__
)


class OpenAIOnLoopback(LoopbackProvider):
    """With the Files and the Batch API: `batches` is what they keep."""

    base_path = "/v1"

    def __init__(self, behaviour: Any) -> None:
        super().__init__(behaviour)
        self.batches = OpenAIBatchService(self._do_line, written, self.answered)
        self.routes = OpenAIBatchRoutes("/v1", self.batches, self._reply)

    def aside(self, http: Any, method: str) -> bool:
        return self.routes.answer(http, method)

    def _do_line(self, line: dict[str, Any]) -> tuple[str, int, Any]:
        body = line["body"]
        try:
            understood = self.understand(line["url"], body, {"authorization": "Bearer batch"})
        except Exception as error:
            self.complaints.append(f"{type(error).__name__}: {error}")
            return line["custom_id"], 400, self.error(Status(400, "invalid_request", str(error)[:300]))
        request, reaction = self.in_batch(understood, body)
        if isinstance(reaction, Status):
            return line["custom_id"], reaction.status, self.error(reaction)
        return line["custom_id"], 200, self.answer(request, reaction, *self._billed(request, reaction))

    def understand(self, path: str, body: Any, headers: Mapping[str, str]) -> tuple[str, str, list[str], list[bytes]]:
        if path != "/v1/chat/completions":
            raise ValueError(f"no such path: {path}")
        if unknown := set(body) - _KNOWN:
            raise ValueError(f"unknown parameters: {unknown}")
        exhausted(_REQUEST.validate_python(body))
        if "response_format" in body:
            self.check_schema(body["response_format"]["json_schema"]["schema"])
        if body["model"].startswith("gpt-6") and "temperature" in body:
            raise ValueError("temperature is not supported with this model")
        texts, images = [], []
        for message in body["messages"]:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for part in parts:
                if part["type"] == "text":
                    texts.append(part["text"])
                else:
                    head, _, data = part["image_url"]["url"].partition(";base64,")
                    if head not in ("data:image/png", "data:image/jpeg"):
                        raise ValueError(f"not an image: {head}")
                    images.append(base64.b64decode(data, validate=True))
        return body["model"], headers["authorization"].removeprefix("Bearer "), texts, images

    def check_schema(self, schema: Any) -> None:
        """Raises ValueError, which is answered with 400."""
        check_strict(schema)

    def answer(self, request: Received, said: Say, input_tokens: int, output_tokens: int) -> Any:
        return chat_completion(request, said, input_tokens, output_tokens)

    def error(self, declined: Status) -> Any:
        return {"error": {"message": declined.message, "type": declined.code, "param": None, "code": declined.code}}


def chat_completion(request: Received, said: Say, input_tokens: int, output_tokens: int) -> Any:
    """A reply as the SDK's `ChatCompletion`."""
    message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None}
    finish = "stop"
    match said.kind:
        case "refusal":
            message |= {"content": None, "refusal": said.text or "I cannot help with that."}
        case "blocked":
            message["content"], finish = None, "content_filter"
        case "truncated":
            finish = "length"
        case "empty":
            message["content"] = ""
    choices = [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}]
    completion = {
        "id": f"chatcmpl-{request.number}",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": said.model or served(request.model),
        "choices": [] if said.kind == "no_choices" else choices,
        "usage": {
            "prompt_tokens": input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
        },
    }
    return ChatCompletion.model_validate(completion).model_dump(mode="json")


def served(model: str) -> str:
    """An alias is served by a dated snapshot."""
    return f"{model}-2024-08-06" if model == "gpt-4o" else model


_TYPES = {"string", "number", "boolean", "integer", "object", "array", "null"}
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
_KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"enum", "pattern", "format"},
    "number": {"enum", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": {"enum"},
}
_KEYWORDS["integer"] = _KEYWORDS["number"]


def check_strict(schema: Any, depth: int = 0) -> None:
    """What OpenAI's guide on structured outputs says of strict mode (supported schemas): an object at the root, every
    object closed, every property required, no keyword that is not listed.
    """
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    (kind,) = [each for each in kinds if each != "null"] or ["null"]
    if not set(kinds) <= _TYPES or (depth == 0 and kinds != ["object"]) or depth > 10:
        raise ValueError(f"type or depth is not supported: {schema}")
    if unknown := set(schema) - {"type", "description"} - _KEYWORDS[kind]:
        raise ValueError(f"{unknown} is not permitted: {schema}")
    if schema.get("format", "date") not in _FORMATS:
        raise ValueError(f"{schema['format']} is not a valid format")
    if "null" in kinds and "enum" in schema and None not in schema["enum"]:
        raise ValueError(f"null is a type and no value: {schema}")
    if kind == "object":
        if schema.get("additionalProperties") is not False or set(schema["required"]) != set(schema["properties"]):
            raise ValueError(f"not a strict schema: {schema}")
        for inner in schema["properties"].values():
            check_strict(inner, depth + 1)
    elif kind == "array":
        check_strict(schema["items"], depth + 1)
