"""A server of open weights on loopback: OpenAI's protocol, and what vLLM and SGLang understand beyond it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

from tests.loopback.openai_api import OpenAIOnLoopback
from tests.loopback.server import Behaviour

_BEYOND = {"skip_special_tokens": bool, "spaces_between_special_tokens": bool, "repetition_penalty": float}


class EndpointOnLoopback(OpenAIOnLoopback):
    """`knows_more`: takes the parameters of vLLM and SGLang; otherwise it answers 400 to them, as the protocol's
    published types say. `lacks`: a keyword of JSON Schema that its grammars do not have. `lists`: the ids at
    /v1/models; None: there is no such path. `key`: the one it takes.
    """

    def __init__(
        self,
        behaviour: Behaviour,
        knows_more: bool = True,
        lists: list[str] | None = None,
        key: str | None = None,
        lacks: str = "",
    ) -> None:
        super().__init__(behaviour)
        self.knows_more, self.lists, self.key, self.lacks = knows_more, lists, key, lacks

    def check_schema(self, schema: Any) -> None:
        """Servers of open weights take all of JSON Schema, or lack something of it."""
        Draft202012Validator.check_schema(schema)
        if self.lacks and self.lacks in json.dumps(schema):
            raise ValueError(f"the grammar compiler does not support {self.lacks}")

    def understand(self, path: str, body: Any, headers: Mapping[str, str]) -> tuple[str, str, list[str], list[bytes]]:
        known = body | {"messages": [self._as_pictures(message) for message in body["messages"]]}
        if self.knows_more:
            if "media_io_kwargs" in known:
                _check_times(known.pop("media_io_kwargs")["video"], known["messages"][0])
            for name, kind in _BEYOND.items():
                if name in known and not isinstance(known.pop(name), kind):
                    raise ValueError(f"{name} is not a {kind.__name__}")
        return super().understand(path, known, headers)

    def _as_pictures(self, message: Any) -> Any:
        """A message in which each video, as vLLM takes them, is the pictures that it holds."""
        if isinstance(message["content"], str):
            return message
        parts: list[Any] = []
        for part in message["content"]:
            if not self.knows_more or part["type"] != "video_url":
                parts.append(part)
                continue
            head, _, frames = part["video_url"]["url"].partition(";base64,")
            if head != "data:video/jpeg":
                raise ValueError(f"not a list of pictures: {head}")
            pictures = [f"data:image/png;base64,{frame}" for frame in frames.split(",")]
            parts += [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
        return message | {"content": parts}

    def aside(self, http: Any, method: str) -> bool:
        if method != "GET":
            return False
        if self.key and http.headers["Authorization"] != f"Bearer {self.key}":
            self._reply(http, 401, {"error": {"message": "wrong key", "code": "invalid_api_key"}})
        elif self.lists is None or http.path != "/v1/models":
            self._reply(http, 404, {"error": {"message": "no such path"}})
        else:
            models = [{"id": id, "object": "model", "created": 0, "owned_by": "here"} for id in self.lists]
            self._reply(http, 200, {"object": "list", "data": models})
        return True


def _check_times(told: dict[str, Any], message: dict[str, Any]) -> None:
    """What vLLM checks of a list of frames (multimodal/media/video.py, 0.32)."""
    frames = sum(part["type"] == "image_url" for part in message["content"])
    if told["num_frames"] != -1 or len(told["frames_indices"]) != frames or told["total_num_frames"] < frames:
        raise ValueError(f"these are not the times of {frames} frames: {told}")
