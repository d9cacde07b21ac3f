"""One JSON Schema as each provider takes it: what a provider does not know is left out, for the reader checks it all.

A (normalized) schema has closed objects, lists and plain types, and `[TYPE, "null"]` for what may be null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sightflow.blocks.models.replies.regions_schema import strict_object
from sightflow.blocks.models.reply_forms import Choices, JsonSchema, ReplyForm

# https://developers.openai.com/api/docs/guides/structured-outputs (supported schemas), as read in November 2026
_OPENAI_LACKS = frozenset({"minLength", "maxLength", "uniqueItems"})
_OPENAI_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
# https://ai.google.dev/api/generate-content (responseJsonSchema), as read in November 2026
_GEMINI_LACKS = frozenset({"pattern", "minLength", "maxLength", "exclusiveMinimum", "exclusiveMaximum", "uniqueItems"})
_GEMINI_FORMATS = frozenset({"date-time", "date", "time"})


def openai_strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """As OpenAI's strict mode takes it: every property required, where optional ones may be null instead."""
    return _for_each(schema, _OPENAI_LACKS, _OPENAI_FORMATS, all_required=True)


def gemini_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """As Gemini's `response_json_schema` takes it: an enum holds texts and numbers, so that null stands beside it."""
    return _null_beside_enums(_for_each(schema, _GEMINI_LACKS, _GEMINI_FORMATS, all_required=False))


def response_format(form: ReplyForm, strict: bool = True) -> dict[str, Any]:
    """The keyword of OpenAI's protocol that makes a server enforce the form of a reply; nothing for free text.

    `strict`: within OpenAI's own subset; servers of open weights take all of JSON Schema.
    """
    match form:
        case Choices(options):
            schema: Any = strict_object({"answer": {"type": "string", "enum": list(options)}})
        case JsonSchema(given):
            schema = openai_strict(given) if strict else dict(given)
        case _:
            return {}
    named = {"name": "reply", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def gemini_reply_schema(form: ReplyForm) -> dict[str, Any] | None:
    """The JSON Schema that Gemini enforces; None for free text."""
    match form:
        case Choices(options):
            return {"type": "string", "enum": list(options)}
        case JsonSchema(schema):
            return gemini_schema(schema)
        case _:
            return None


def json_mode(form: ReplyForm) -> dict[str, Any]:
    """DashScope's `response_format`: an object of JSON, whose fields the words ask for and the reader checks.

    https://www.alibabacloud.com/help/en/model-studio/qwen-structured-output: the prompt has to hold the word JSON;
    schemas are taken by a few of the ids alone.
    """
    is_object = isinstance(form, JsonSchema) and form.schema.get("type") == "object"
    return {"response_format": {"type": "json_object"}} if is_object else {}


def _for_each(
    schema: Mapping[str, Any], lacks: frozenset[str], formats: frozenset[str], all_required: bool
) -> dict[str, Any]:
    made = {key: value for key, value in schema.items() if key not in lacks}
    if made.get("format") not in formats:
        made.pop("format", None)
    if "items" in made:
        made["items"] = _for_each(made["items"], lacks, formats, all_required)
    if "properties" in made:
        required = made.get("required", [])
        fields = {name: _for_each(each, lacks, formats, all_required) for name, each in made["properties"].items()}
        if all_required:
            fields = {name: each if name in required else _or_null(each) for name, each in fields.items()}
            made["required"] = list(fields)
        made["properties"] = fields
    return made


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    kind = schema["type"]
    made = dict(schema) | {"type": kind if isinstance(kind, list) else [kind, "null"]}
    if "enum" in made and None not in made["enum"]:
        made["enum"] = [*made["enum"], None]
    return made


def _null_beside_enums(schema: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(schema)
    if "items" in made:
        made["items"] = _null_beside_enums(made["items"])
    if "properties" in made:
        made["properties"] = {name: _null_beside_enums(each) for name, each in made["properties"].items()}
    kinds = made["type"] if isinstance(made["type"], list) else [made["type"]]
    if "enum" not in made:
        return made
    if "boolean" in kinds:
        del made["enum"]
    elif "null" in kinds:
        values = [value for value in made.pop("enum") if value is not None]
        rest = {key: made.pop(key) for key in list(made) if key != "description"}
        return made | {"anyOf": [rest | {"type": kinds[0], "enum": values}, {"type": "null"}]}
    return made
