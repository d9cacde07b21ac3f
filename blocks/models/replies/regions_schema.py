"""JSON schemas (https://json-schema.org) of replies that hold regions, within what the providers enforce."""

from __future__ import annotations

from typing import Any

from sightflow.blocks.models.reply_forms import JsonSchema
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment

_NUMBERS: dict[str, Any] = {"type": "array", "items": {"type": "number"}}
POINTS: dict[str, Any] = {"type": "array", "items": _NUMBERS | {"minItems": 2, "maxItems": 2}}
"""An outline: points of two numbers."""
MOST_PIXELS = 99_999
"""The largest number of a place in pixels."""


def region_properties(
    enrichment: Enrichment, media_kind: MediaKind, box_key: str, outline: dict[str, Any]
) -> dict[str, Any]:
    """The properties of one region: its label, one of those asked for if any were; its box of four numbers; of a video
    its frame and, for tracking, its track; for segmentation the `outline`, a property and its schema.
    """
    names = enrichment.phrases or enrichment.labels
    label = {"type": "string", "enum": list(names)} if names else {"type": "string"}
    region: dict[str, Any] = {"label": label, box_key: _NUMBERS | {"minItems": 4, "maxItems": 4}}
    if enrichment.capability is Capability.OBJECT_TRACKING:
        region = {"track": {"type": "integer"}, **region}
    if media_kind is MediaKind.VIDEO:
        region = {"frame": {"type": "integer"}, **region}
    return region | (outline if enrichment.capability is Capability.SEGMENTATION else {})


def region_form(enrichment: Enrichment, box_key: str, coordinate: dict[str, Any]) -> JsonSchema:
    """The form of an image's regions as a local model writes them: an array, labels among those asked for, boxes of
    four numbers and outlines of points, each number as `coordinate` has it.
    """
    outline = {"polygon": POINTS | {"items": POINTS["items"] | {"items": coordinate}, "minItems": 3}}
    region = region_properties(enrichment, MediaKind.IMAGE, box_key, outline)
    region[box_key] = region[box_key] | {"items": coordinate}
    if "enum" not in region["label"]:
        region["label"] = region["label"] | {"minLength": 1, "maxLength": 80}
    return JsonSchema({"type": "array", "items": strict_object(region)})


def strict_object(properties: dict[str, Any]) -> dict[str, Any]:
    """An object as strict modes take it: every property required, and no other."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
