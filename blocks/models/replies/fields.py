"""Reading the fields of a user's own schema out of JSON that a model wrote."""

from __future__ import annotations

import json

from sightflow.blocks.models.contract import Prompt, ReplyError
from sightflow.blocks.models.replies.json_regions import read_json
from sightflow.blocks.models.replies.text import read_text
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment, FieldsResult, TextResult
from sightflow.schemas.extraction.values import kept, problem_of


def read_answer(text: str, enrichment: Enrichment, prompt: Prompt) -> TextResult | FieldsResult:
    """What an enrichment asked for that is no place in the image: text, or fields. Raises ReplyError."""
    if enrichment.capability is Capability.STRUCTURED_EXTRACTION:
        return read_fields(text, enrichment)
    return read_text(text, enrichment, prompt)


def read_fields(text: str, enrichment: Enrichment) -> FieldsResult:
    """The fields that an enrichment asked for, whether or not the engine held the model to their schema.

    Raises ReplyError if the reply is not one JSON object of the schema: types, enums, ranges, formats, no other field.
    """
    schema = enrichment.extraction_schema
    assert schema is not None
    value = read_json(text)
    if not isinstance(value, dict):
        raise ReplyError(f"an object with the fields of the schema was expected, not {str(value)[:80]}")
    fields = kept(value, schema)
    if problem := problem_of(fields, schema):
        raise ReplyError(f"the reply is not of the schema: {problem}")
    return FieldsResult(json.dumps(fields, ensure_ascii=False))
