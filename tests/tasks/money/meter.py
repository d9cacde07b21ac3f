"""Vendors on loopback that charge by meters of their own: what an image or a video costs is told from what arrives.

Nothing of the rules in `blocks/models/token_rules` is used: an image arrives at the size at which it is looked at, so
its tiles, patches or cells are those of its own pixels.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import av
from openai.types.responses.input_token_count_params import InputTokenCountParams
from PIL import Image
from pydantic import TypeAdapter

from tests.loopback.dashscope_api import DashScopeOnLoopback
from tests.loopback.gemini_api import GeminiOnLoopback
from tests.loopback.openai_api import OpenAIOnLoopback
from tests.loopback.server import LoopbackProvider, Received, Say, exhausted

Size = tuple[int, int]
_COUNTED = TypeAdapter(InputTokenCountParams)


def words(text: str) -> int:
    """A tokenizer of English of its own: four tokens to three words."""
    return round(len(text.split()) * 4 / 3)


def across(side: int, cell: int) -> int:
    return len(range(0, side, cell))


class Metered(LoopbackProvider):
    """`image`: the tokens of an image of a size. `dollars`: a million tokens in, and out."""

    image: Callable[[Size], float]
    dollars: tuple[float, float] = (0.0, 0.0)
    reply_tokens = 160

    def bill(self, request: Received, said: Say) -> tuple[int, int]:
        return round(self.tokens(request)), self.reply_tokens

    def tokens(self, request: Received) -> float:
        return sum(self.image(image.size) for image in request.images) + sum(map(words, request.texts))

    @property
    def charged(self) -> float:
        into, out = self.dollars
        return (self.billed_tokens["input"] * into + self.billed_tokens["output"] * out) / 1e6


class MeteredOpenAI(Metered, OpenAIOnLoopback):
    """With the endpoint that counts, which charges nothing."""

    counted = 0

    def aside(self, http: Any, method: str) -> bool:
        if not http.path.endswith("/responses/input_tokens"):
            return super().aside(http, method)
        body = json.loads(http.rfile.read(int(http.headers["Content-Length"])))
        exhausted(_COUNTED.validate_python(body))
        parts = [part for message in body["input"] for part in message["content"]]
        urls = [part["image_url"] for part in parts if part["type"] == "input_image"]
        images = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
        texts = [part["text"] for part in parts if part["type"] == "input_text"]
        total = sum(self.image(image.size) for image in images) + sum(map(words, texts))
        self.counted += 1
        self._reply(http, 200, {"object": "response.input_tokens", "input_tokens": round(total)})
        return True


class MeteredGemini(Metered, GeminiOnLoopback):
    """A video file costs so many tokens a `frame`, at the rate that is asked for, and 32 a second of sound."""

    frame = 70
    counted = 0

    def tokens(self, request: Received) -> float:
        parts = [part for content in request.body["contents"] for part in content["parts"]]
        return super().tokens(request) + sum(map(self._video, parts))

    def _video(self, part: dict[str, Any]) -> float:
        data = part.get("inlineData") or {}
        if not data.get("mimeType", data.get("mime_type", "")).startswith("video/"):
            return 0.0
        asked = part.get("videoMetadata") or {}
        with av.open(io.BytesIO(base64.urlsafe_b64decode(data["data"]))) as film:
            length, heard = film.duration / av.time_base, bool(film.streams.audio)
        start = float(asked.get("startOffset", "0s").rstrip("s"))
        end = float(asked.get("endOffset", f"{length}s").rstrip("s"))
        return round((end - start) * asked["fps"]) * self.frame + heard * 32 * (end - start)

    def aside(self, http: Any, method: str) -> bool:
        path = http.path.partition("?")[0]
        if not path.endswith(":countTokens"):
            return super().aside(http, method)
        body = json.loads(http.rfile.read(int(http.headers["Content-Length"])))
        asked = path.replace(":countTokens", ":generateContent")
        headers = {name.lower(): value for name, value in http.headers.items()}
        model, key, texts, files = self.understand(asked, body, headers)
        images = tuple(Image.open(io.BytesIO(file)) for file in files)
        self.counted += 1
        total = self.tokens(Received(0, model, key, tuple(texts), images, body, headers))
        self._reply(http, 200, {"totalTokens": round(total)})
        return True


class MeteredDashScope(Metered, DashScopeOnLoopback):
    """Frames of a list cost their cells by pairs; `cell`: pixels of a side."""

    cell = 32

    def tokens(self, request: Received) -> float:
        parts = [part for message in request.body["input"]["messages"] for part in message["content"]]
        listed = [len(part["video"]) for part in parts if "video" in part]
        text = sum(map(words, request.texts))
        if not listed:
            return super().tokens(request)
        width, height = request.images[0].size
        return text + sum(-(-count // 2) for count in listed) * across(width, self.cell) * across(height, self.cell) + 2


def tiles(at_all: int, each: int) -> Callable[[Size], float]:
    """OpenAI's, of an image that is seen as it arrives."""
    return lambda size: at_all + each * across(size[0], 512) * across(size[1], 512)


def patches(each: float) -> Callable[[Size], float]:
    return lambda size: across(size[0], 32) * across(size[1], 32) * each


def cells(side: int) -> Callable[[Size], float]:
    return lambda size: across(size[0], side) * across(size[1], side) + 2
