"""The three hosted systems with their loopback providers, and how a perfect model of each would answer."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from sightflow.blocks.models.hosted_model import HostedModel
from sightflow.blocks.models.systems.gemini import Gemini
from sightflow.blocks.models.systems.gpt_4o import GPT4o
from sightflow.blocks.models.systems.qwen_vl_max import QwenVLMax
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.vision import VisionRequest
from tests.loopback.dashscope_api import DashScopeOnLoopback
from tests.loopback.gemini_api import GeminiOnLoopback
from tests.loopback.openai_api import OpenAIOnLoopback
from tests.loopback.server import Behaviour, LoopbackProvider, Received, Say
from tests.loopback.virtual_clock import VirtualClock

KEY = "sk-Secret0123456789-VeryPrivate"

CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)
ASK = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="What is there?")
CHOOSE = Enrichment(
    capability=Capability.VISUAL_QUESTION_ANSWERING, question="Is there a box?", choices=("yes", "no", "unsure")
)
REASON = Enrichment(capability=Capability.VISUAL_REASONING, question="Why is it red?")
GROUND = Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=("the red box",))
DETECT = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("box", "ball"))
SEGMENT = Enrichment(capability=Capability.SEGMENTATION, labels=("box",))
RECEIPT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "shop": {"type": "string", "minLength": 1, "maxLength": 60},
        "day": {"type": "string", "format": "date"},
        "total": {"type": "number", "minimum": 0, "exclusiveMaximum": 1_000_000},
        "paid": {"type": "string", "enum": ["cash", "card"]},
        "tip": {"type": ["number", "null"]},
        "rating": {"type": ["string", "null"], "enum": ["good", "bad", None]},
        "site": {"type": "string", "format": "uri"},
        "lines": {
            "type": "array",
            "uniqueItems": True,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string", "pattern": "^[A-Z]"}, "count": {"type": "integer"}},
                "required": ["name"],
            },
        },
    },
    "required": ["shop", "day", "total"],
}
EXTRACT = Enrichment(capability=Capability.STRUCTURED_EXTRACTION, schema=RECEIPT, name="receipt")
ALL = (CAPTION, ASK, CHOOSE, REASON, GROUND, DETECT, SEGMENT, EXTRACT)

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class System:
    """A system with one of its ids; `native` writes a box (pixels of the picture sent, and its size) its way."""

    name: str
    id: str
    model: type[HostedModel]
    provider: type[LoopbackProvider]
    native: Callable[[Corners, tuple[int, int]], dict[str, Any]]
    outline: Callable[[Corners, tuple[int, int]], dict[str, Any]]

    def connect(self, provider: LoopbackProvider, **settings: Any) -> HostedModel:
        """The model on its loopback provider, with virtual time."""
        defaults = {"api_key": KEY, "base_url": provider.url, "id": self.id, "timeout": 20}
        model = self.model(**(defaults | settings))
        model.open_engine().clock = VirtualClock()
        return model

    def on_loopback(self, behaviour: Behaviour) -> LoopbackProvider:
        return self.provider(behaviour)

    def regions(self, entries: Sequence[dict[str, Any]]) -> str:
        """A reply of regions in the form that the system was asked for."""
        return json.dumps({"regions": entries} if self.name == "gpt-4o" else entries)

    def choice(self, answer: str) -> str:
        return {"gpt-4o": json.dumps({"answer": answer}), "gemini": json.dumps(answer)}.get(self.name, answer)


def thousandths(box: Corners, size: tuple[int, int]) -> list[int]:
    return [round(value / size[axis % 2] * 1000) for axis, value in enumerate(box)]


def corner_points(box: Sequence[float]) -> list[list[float]]:
    x_min, y_min, x_max, y_max = box
    return [[x_min, y_min], [x_max, y_min], [x_max, y_max], [x_min, y_max]]


def _gpt_box(box: Corners, size: tuple[int, int]) -> dict[str, Any]:
    return {"box": thousandths(box, size)}


def _gpt_outline(box: Corners, size: tuple[int, int]) -> dict[str, Any]:
    return {"box": thousandths(box, size), "polygon": corner_points(thousandths(box, size))}


def _gemini_box(box: Corners, size: tuple[int, int]) -> dict[str, Any]:
    x_min, y_min, x_max, y_max = thousandths(box, size)
    return {"box_2d": [y_min, x_min, y_max, x_max]}


def _gemini_polygon(box: Corners, size: tuple[int, int]) -> dict[str, Any]:
    return _gemini_box(box, size) | {"mask": corner_points(thousandths(box, size))}


def _gemini_png(box: Corners, size: tuple[int, int]) -> dict[str, Any]:
    return _gemini_box(box, size) | {"mask": mask_png(Image.new("L", (40, 30), 220))}


def mask_png(mask: Image.Image) -> str:
    file = io.BytesIO()
    mask.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _qwen_box(box: Corners, size: tuple[int, int]) -> dict[str, Any]:
    return {"bbox_2d": thousandths(box, size)}


def _qwen_outline(box: Corners, size: tuple[int, int]) -> dict[str, Any]:
    return _qwen_box(box, size) | {"polygon": corner_points(thousandths(box, size))}


def _pixel_box(box: Corners, size: tuple[int, int]) -> dict[str, Any]:
    return {"bbox_2d": [round(value) for value in box]}


def _pixel_outline(box: Corners, size: tuple[int, int]) -> dict[str, Any]:
    return _pixel_box(box, size) | {"polygon": corner_points([round(value) for value in box])}


GPT = System("gpt-4o", "gpt-4o", GPT4o, OpenAIOnLoopback, _gpt_box, _gpt_outline)
GPT_NEXT = System("gpt-4o", "gpt-6-luna", GPT4o, OpenAIOnLoopback, _gpt_box, _gpt_outline)
GEMINI = System("gemini", "gemini-3.8-flash", Gemini, GeminiOnLoopback, _gemini_box, _gemini_polygon)
GEMINI_OLD = System("gemini", "gemini-2.5-flash", Gemini, GeminiOnLoopback, _gemini_box, _gemini_png)
QWEN = System("qwen-vl-max", "qwen3.7-plus", QwenVLMax, DashScopeOnLoopback, _qwen_box, _qwen_outline)
QWEN_OLD = System("qwen-vl-max", "qwen-vl-max", QwenVLMax, DashScopeOnLoopback, _pixel_box, _pixel_outline)

SYSTEMS = (GPT, GEMINI, QWEN)
GENERATIONS = (GPT, GPT_NEXT, GEMINI, GEMINI_OLD, QWEN, QWEN_OLD)


def named(system: System) -> str:
    return system.id


READ = json.dumps(
    {
        "shop": "Corner",
        "day": "2026-03-01",
        "total": 12.5,
        "paid": None,
        "tip": None,
        "rating": None,
        "site": None,
        "lines": [{"name": "Tea", "count": 2}, {"name": "Bun", "count": None}],
    }
)
"""A receipt as strict modes have it: null for what is not there."""
KEPT = (
    '{"shop": "Corner", "day": "2026-03-01", "total": 12.5, "tip": null, "rating": null, '
    '"lines": [{"name": "Tea", "count": 2}, {"name": "Bun"}]}'
)
"""The same as a row keeps it."""


def image_with_box(size: tuple[int, int], box: Corners) -> Image.Image:
    """A blue picture with a red box; the box's right and bottom edges are outside it, as in the catalog."""
    image = Image.new("RGB", size, (20, 40, 200))
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=(240, 10, 10))
    return image


def seen_box(image: Image.Image) -> Corners:
    """Where the red box is in a picture as it was received, in its pixels."""
    pixels = np.asarray(image).astype(int)
    red = pixels[..., 0] > pixels[..., 2]
    columns, rows = np.flatnonzero(red.any(axis=0)), np.flatnonzero(red.any(axis=1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


SMALL = image_with_box((64, 48), (10, 12, 30, 36))


def request(enrichment: Enrichment, image: Image.Image = SMALL, uri: str = "s3://b/x.png") -> VisionRequest:
    return VisionRequest(uri, enrichment, DecodedImage(image, image.width, image.height, "0" * 64))


def perfect(system: System) -> Behaviour:
    """A model that sees the red box and answers everything right, in its own form."""

    def behave(received: Received) -> Say:
        asked = received.texts[0]
        image = received.images[0]
        if "JSON Schema" in asked:
            return Say(READ)
        if "outline" in asked or "segmentation mask" in asked:
            return Say(system.regions([{"label": "box", **system.outline(seen_box(image), image.size)}]))
        if "the red box" in asked:
            return Say(system.regions([{"label": "the red box", **system.native(seen_box(image), image.size)}]))
        if "JSON array" in asked:
            return Say(system.regions([{"label": "box", **system.native(seen_box(image), image.size)}]))
        if "exactly one of these" in asked:
            return Say(system.choice("yes"))
        return Say(f"A red box, {image.width} by {image.height}.")

    return behave
