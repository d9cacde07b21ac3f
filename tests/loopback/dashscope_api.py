"""DashScope's multimodal conversation on loopback."""

from __future__ import annotations

import base64
import inspect
from collections.abc import Mapping
from typing import Any

from dashscope.v2.protocols.native import NativeProtocol
from dashscope.v2.types.completions import parse_completion
from dashscope.v2.types.messages import ImagePart, Message, TextPart, VideoPart

from tests.loopback.batches.openai_routes import OpenAIBatchRoutes, OpenAIBatchService, written
from tests.loopback.openai_api import chat_completion
from tests.loopback.server import LoopbackProvider, Received, Say, Status

_PARAMETERS = set(inspect.signature(NativeProtocol.build_chat_request).parameters) | {"result_format"}


class DashScopeOnLoopback(LoopbackProvider):
    """With batches by the OpenAI-compatible protocol: `batches` is what they keep."""

    base_path = "/api/v1"

    def __init__(self, behaviour: Any) -> None:
        super().__init__(behaviour)
        self.batches = OpenAIBatchService(self._do_line, written, self.answered)
        self.routes = OpenAIBatchRoutes(
            "/compatible-mode/v1", self.batches, self._reply, most_bytes=500_000_000, line_bytes=6_000_000
        )

    def aside(self, http: Any, method: str) -> bool:
        return self.routes.answer(http, method)

    def _do_line(self, line: dict[str, Any]) -> tuple[str, int, Any]:
        body = line["body"]
        try:
            understood = compatible(body)
        except Exception as error:
            self.complaints.append(f"{type(error).__name__}: {error}")
            return line["custom_id"], 400, {"error": self.error(Status(400, "InvalidParameter", str(error)[:300]))}
        request, reaction = self.in_batch(understood, body)
        if isinstance(reaction, Status):
            return line["custom_id"], reaction.status, {"error": self.error(reaction)}
        return line["custom_id"], 200, chat_completion(request, reaction, *self._billed(request, reaction))

    def understand(self, path: str, body: Any, headers: Mapping[str, str]) -> tuple[str, str, list[str], list[bytes]]:
        if path != "/api/v1" + NativeProtocol.MULTIMODAL_PATH:
            raise ValueError(f"no such path: {path}")
        if unknown := (set(body) - {"model", "input", "parameters"}) | (set(body["parameters"]) - _PARAMETERS):
            raise ValueError(f"unknown parameters: {unknown}")
        if "x-dashscope-ossresourceresolve" in headers:
            raise ValueError("a file was uploaded")
        asked_for = body["parameters"].get("response_format")
        if asked_for is not None and asked_for != {"type": "json_object"}:
            raise ValueError(f"response_format: {asked_for}")
        if asked_for and body["parameters"].get("enable_thinking", body["model"].startswith("qwen3.")):
            raise ValueError("json mode response is not supported when enable_thinking is true")
        texts, images = [], []
        for message in body["input"]["messages"]:
            parts = [canonical(part) for part in message["content"]]
            Message(role=message["role"], content=parts)
            for part in parts:
                if isinstance(part, TextPart):
                    texts.append(part.text)
                    continue
                for url in [part.url] if isinstance(part, ImagePart) else part.frames or []:
                    head, _, data = url.partition(";base64,")
                    if head not in ("data:image/png", "data:image/jpeg"):
                        raise ValueError(f"not an image: {head[:80]}")
                    images.append(base64.b64decode(data, validate=True))
        if asked_for and not any("json" in text.lower() for text in texts):
            raise ValueError("'messages' must contain the word 'json' in some form, to use 'response_format'")
        return body["model"], headers["authorization"].removeprefix("Bearer "), texts, images

    def answer(self, request: Received, said: Say, input_tokens: int, output_tokens: int) -> Any:
        content = [] if said.kind == "empty" else [{"text": said.text}]
        finish = "length" if said.kind == "truncated" else "stop"
        choices = [{"finish_reason": finish, "message": {"role": "assistant", "content": content}}]
        payload = {
            "output": {"choices": [] if said.kind == "no_choices" else choices},
            "usage": {"input_tokens": input_tokens, "output_tokens": output_tokens, "image_tokens": 900},
            "request_id": f"request-{request.number}",
        }
        parse_completion(payload)
        return payload

    def error(self, declined: Status) -> Any:
        return {"code": declined.code, "message": declined.message, "request_id": "request-x"}


def canonical(part: Mapping[str, Any]) -> TextPart | ImagePart | VideoPart:
    """A part of the native wire as the SDK's own type, which forbids what it does not know."""
    rest = {key: value for key, value in part.items() if key not in ("text", "image", "video")}
    if "text" in part:
        return TextPart(text=part["text"], **rest)
    if "image" in part:
        return ImagePart(url=part["image"], **rest)
    return VideoPart(frames=part["video"], **rest)


_COMPATIBLE = {"model", "messages", "max_tokens", "temperature", "seed", "enable_thinking", "response_format"}


def compatible(body: Mapping[str, Any]) -> tuple[str, str, list[str], list[bytes]]:
    """A request of the OpenAI-compatible protocol, with what Qwen's takes beside that. Raises ValueError."""
    if unknown := set(body) - _COMPATIBLE:
        raise ValueError(f"unknown parameters: {unknown}")
    texts, images = [], []
    for message in body["messages"]:
        for part in message["content"]:
            match part:
                case {"type": "text", "text": text, **rest} if not rest:
                    texts.append(text)
                    continue
                case {"type": "image_url", "image_url": {"url": url}, **rest} if set(rest) <= {
                    "min_pixels",
                    "max_pixels",
                }:
                    urls = [url]
                case {"type": "video", "video": urls, "fps": fps, **rest} if not rest:
                    assert 0.1 <= fps <= 10
                case _:
                    raise ValueError(f"no part of a message: {str(part)[:200]}")
            for url in urls:
                head, _, data = url.partition(";base64,")
                if head not in ("data:image/png", "data:image/jpeg"):
                    raise ValueError(f"not an image: {head[:80]}")
                images.append(base64.b64decode(data, validate=True))
    if body.get("response_format") and not any("json" in text.lower() for text in texts):
        raise ValueError("'messages' must contain the word 'json' in some form, to use 'response_format'")
    return body["model"], "batch", texts, images
