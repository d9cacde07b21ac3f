"""The Gemini API on loopback."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from google.genai import types

from tests.loopback.batches.gemini_routes import GeminiBatchRoutes, written
from tests.loopback.batches.service import BatchService
from tests.loopback.server import LoopbackProvider, Received, Say, Status

_PATH = re.compile(r"/v1(?:beta)?/models/([^:/]+):generateContent")
_KNOWN = {"contents", "generationConfig", "safetySettings", "systemInstruction", "tools", "toolConfig", "cachedContent"}
_NO_SAMPLING = re.compile(r"gemini-3")


class GeminiOnLoopback(LoopbackProvider):
    """With the Files API: an upload is being processed for `polls` looks at it, then active (or as `ends` says)."""

    def __init__(self, behaviour: Any) -> None:
        super().__init__(behaviour)
        self.files: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.uploads = 0
        self.polls = 2
        self.ends = types.FileState.ACTIVE
        self.batches = BatchService(self._do_line, written, self.answered, id_key="key")
        self.routes = GeminiBatchRoutes(self.batches, self._reply)

    def aside(self, http: Any, method: str) -> bool:
        path, _, _ = http.path.partition("?")
        name = path.rpartition("/")[2]
        if self.routes.answer(http, method):
            return True
        if method == "DELETE" and name in self.batches.names:
            self._say(http, {}) if self.batches.remove(name) else self._reply(http, 404, {"error": {"code": 404}})
        elif method == "GET":
            self.polls -= 1
            self._say(http, self._file(name))
        elif method == "DELETE":
            self.deleted.append(name)
            self.files.pop(name)
            self._say(http, {})
        elif path.startswith("/upload/") and path.endswith("/files"):
            sent = json.loads(http.rfile.read(int(http.headers["Content-Length"])))["file"]
            file = types.File.model_validate(sent)
            self.uploads += 1
            name = f"requests-{file.display_name}" if file.mime_type == "jsonl" else f"video{self.uploads}"
            self._say(http, {}, {"x-goog-upload-url": f"{self.url}/upload/bytes/{name}"})
        elif path.startswith("/upload/bytes/"):
            self.files[name] = self.files.get(name, b"") + http.rfile.read(int(http.headers["Content-Length"]))
            final = "finalize" in http.headers["X-Goog-Upload-Command"]
            if final and name.startswith("requests-"):
                kept = self.batches.keep(self.files.pop(name), name.removeprefix("requests-"))
                body = {"file": self.routes.file(kept)}
            else:
                body = {"file": self._file(name)} if final else {}
            self._say(http, body, {"x-goog-upload-status": "final" if final else "active"})
        else:
            return False
        return True

    def _do_line(self, line: dict[str, Any]) -> tuple[str, int, Any]:
        if set(line) != {"key", "request"}:
            raise ValueError(f"no request: {set(line)}")
        body = line["request"]
        try:
            model = next(iter(self.batches.jobs.values())).model
            understood = self.understand(f"/v1beta/models/{model}:generateContent", body, {"x-goog-api-key": "batch"})
        except Exception as error:
            self.complaints.append(f"{type(error).__name__}: {error}")
            return line["key"], 400, self.error(Status(400, "invalid", str(error)[:300]))
        request, reaction = self.in_batch(understood, body)
        if isinstance(reaction, Status):
            return line["key"], reaction.status, self.error(reaction)
        return line["key"], 200, self.answer(request, reaction, *self._billed(request, reaction))

    def _file(self, name: str) -> Any:
        state = self.ends if self.polls <= 0 else types.FileState.PROCESSING
        file = types.File(name=f"files/{name}", uri=f"{self.url}/files/{name}", mime_type="video/mp4", state=state)
        return file.model_dump(mode="json", by_alias=True, exclude_none=True)

    def _say(self, http: Any, body: Any, headers: Mapping[str, str] | None = None) -> None:
        self._reply(http, 200, body, headers)

    def understand(self, path: str, body: Any, headers: Mapping[str, str]) -> tuple[str, str, list[str], list[bytes]]:
        found = _PATH.fullmatch(path.partition("?")[0])
        if not found:
            raise ValueError(f"no such path: {path}")
        if unknown := set(body) - _KNOWN:
            raise ValueError(f"unknown parameters: {unknown}")
        contents = [types.Content.model_validate(content) for content in body["contents"]]
        config = types.GenerationConfig.model_validate(body.get("generationConfig", {}))
        if _NO_SAMPLING.match(found.group(1)) and (config.temperature is not None or config.top_p is not None):
            raise ValueError("sampling parameters are deprecated for this model")
        if config.response_json_schema and config.response_mime_type != "application/json":
            raise ValueError("a schema needs the JSON mime type")
        if config.response_json_schema:
            check_supported(config.response_json_schema)
        parts = [part for content in contents for part in content.parts or []]
        texts = [part.text for part in parts if part.text]
        images = [p.inline_data.data for p in parts if p.inline_data and p.inline_data.mime_type.startswith("image/")]
        for part in parts:
            if part.file_data and part.file_data.file_uri.rpartition("/")[2] not in self.files:
                raise ValueError(f"no such file: {part.file_data.file_uri}")
        return found.group(1), headers["x-goog-api-key"], texts, images

    def answer(self, request: Received, said: Say, input_tokens: int, output_tokens: int) -> Any:
        parts = [types.Part(text="thinking...", thought=True), types.Part(text=said.text)]
        candidate = types.Candidate(
            content=types.Content(role="model", parts=parts), finish_reason=types.FinishReason.STOP, index=0
        )
        feedback = None
        match said.kind:
            case "refusal":
                candidate.content, candidate.finish_reason = None, types.FinishReason.SAFETY
            case "blocked":
                feedback = types.GenerateContentResponsePromptFeedback(block_reason=types.BlockedReason.SAFETY)
            case "truncated":
                candidate.finish_reason = types.FinishReason.MAX_TOKENS
            case "empty":
                candidate.content = types.Content(role="model", parts=[])
        response = types.GenerateContentResponse(
            candidates=[] if said.kind in ("blocked", "no_choices") else [candidate],
            prompt_feedback=feedback,
            model_version=said.model or f"{request.model}-001",
            usage_metadata=types.GenerateContentResponseUsageMetadata(
                prompt_token_count=input_tokens,
                candidates_token_count=output_tokens - output_tokens // 2,
                thoughts_token_count=output_tokens // 2,
                total_token_count=input_tokens + output_tokens,
            ),
        )
        return response.model_dump(mode="json", by_alias=True, exclude_none=True)

    def error(self, declined: Status) -> Any:
        details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": declined.code}]
        return {"error": {"code": declined.status, "message": declined.message, "status": "X", "details": details}}


_KEYWORDS = {"type", "format", "title", "description", "enum", "items", "prefixItems", "minItems", "maxItems"} | {
    "minimum", "maximum", "anyOf", "oneOf", "properties", "additionalProperties", "required", "propertyOrdering"
}  # fmt: skip


def check_supported(schema: Any) -> None:
    """What the reference of `responseJsonSchema` lists; an enum is of texts and numbers."""
    if unknown := set(schema) - _KEYWORDS:
        raise ValueError(f"not supported: {unknown}")
    if any(isinstance(value, bool) or not isinstance(value, str | int | float) for value in schema.get("enum", [])):
        raise ValueError(f"an enum is of strings and numbers: {schema['enum']}")
    if schema.get("format", "date") not in ("date", "date-time", "time"):
        raise ValueError(f"no such format: {schema['format']}")
    for inner in [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]:
        check_supported(inner)
    if "items" in schema:
        check_supported(schema["items"])
