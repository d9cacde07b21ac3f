"""Schemas of a user's own: what is understood is kept whole, and what is not is refused by name."""

import enum
import json
from datetime import date
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.extraction.columns import described_change, structure
from sightflow.schemas.extraction.json_schema import MOST_CHARACTERS, MOST_DEPTH, UnsupportedSchema, normalized


class Paid(enum.Enum):
    CASH = "cash"
    CARD = "card"


class Line(BaseModel):
    name: str
    price: float = Field(ge=0)


class Receipt(BaseModel):
    """What a till prints."""

    shop: str = Field(min_length=1, max_length=80, description="as at the top")
    day: date
    paid: Paid
    kind: Literal["sale", "refund"] = "sale"
    lines: list[Line] = []
    tip: float | None = None


def test_a_pydantic_model_becomes_closed_fields_in_its_order() -> None:
    schema = normalized(Receipt.model_json_schema())
    assert list(schema["properties"]) == ["shop", "day", "paid", "kind", "lines", "tip"]
    assert schema["required"] == ["shop", "day", "paid"] and schema["additionalProperties"] is False
    assert schema["properties"]["shop"] == {
        "type": "string",
        "description": "as at the top",
        "minLength": 1,
        "maxLength": 80,
    }
    assert schema["properties"]["paid"] == {"type": "string", "enum": ["cash", "card"]}
    assert schema["properties"]["tip"] == {"type": ["number", "null"]}
    assert schema["properties"]["lines"]["items"]["required"] == ["name", "price"]
    assert normalized(schema) == schema  # as it is stored, so it is read again
    assert structure(schema) == {
        "shop": "VARCHAR",
        "day": "DATE",
        "paid": "VARCHAR",
        "kind": "VARCHAR",
        "lines": [{"name": "VARCHAR", "price": "DOUBLE"}],
        "tip": "DOUBLE",
    }


def of(**field: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": field}}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("text", "a schema is an object"),
        ({"type": "array", "items": {"type": "string"}}, "root is an object"),
        ({"type": "object"}, "names its properties"),
        (of(), "at x: type is one of"),
        (of(type="date"), "at x: type is one of"),
        (of(type=["string", "integer"]), "at x: type is one of"),
        (of(type="string", minimum=3), "at x: minimum: not supported for string"),
        (of(type="integer", multipleOf=3), "at x: multipleOf: not supported for integer"),
        (of(type="string", **{"not": {}}), "at x: not: not supported"),
        (of(type="object", properties={"y": {"type": "string"}}, patternProperties={}), "patternProperties"),
        (of(type="object", properties={"y": {"type": "string"}}, additionalProperties=True), "additionalProperties"),
        (of(type="object", additionalProperties={"type": "string"}), "names its properties"),
        (of(type="array"), "says what it holds"),
        (of(type="array", items=False), "at x\\[\\]: a schema is an object"),
        (of(type="array", prefixItems=[], items={"type": "string"}), "prefixItems"),
        (of(anyOf=[{"type": "string"}, {"type": "integer"}]), "anyOf of more than one schema and"),
        (of(anyOf="x"), "anyOf is a list"),
        (of(anyOf=[1]), "anyOf is a list"),
        (of(allOf=[{"type": "string"}, {"type": "null"}]), "allOf of more than one schema"),
        (of(type="string", enum=[]), "enum is a list"),
        (of(type="string", enum=["a", 1]), "enum is a list"),
        (of(type="integer", enum=[True]), "enum is a list"),
        (of(type="string", enum={"a": 1}), "enum is a list"),
        (of(type="string", format="hostname"), "format is one of"),
        (of(type="string", format=["date"]), "format is one of"),
        (of(type="string", pattern="(?=a)b"), "pattern: not a regular expression that can be checked"),
        (of(type="string", pattern=r"(a)\1"), "pattern: not a regular expression that can be checked"),
        (of(type="string", pattern="(" * 300 + "a" + ")" * 300), "pattern"),
        (of(type="string", pattern="((a{1000}){1000}){1000}"), "pattern: not a regular expression that can be checked"),
        (of(type="string", pattern="a" * 501), "pattern is text"),
        (of(type="string", pattern=3), "pattern is text"),
        (of(type="string", minLength=5, maxLength=3), "nothing is at least 5 and at most 3"),
        (of(type="string", minLength=-1), "minLength is a whole number"),
        (of(type="string", maxLength=2.5), "maxLength is a whole number"),
        (of(type="number", minimum="0"), "minimum is a number"),
        (of(type="number", minimum=0, exclusiveMinimum=True), "exclusiveMinimum is a number"),
        (of(type="number", minimum=float("nan")), "no JSON"),
        (of(type="array", items={"type": "string"}, uniqueItems="yes"), "uniqueItems is true or false"),
        (of(type="string", description=["a"]), "description is a text"),
        (of(type="string") | {"required": ["y"]}, "required names y"),
        (of(type="string") | {"required": "x"}, "required is a list"),
        (of(type="string") | {"required": [["x"]]}, "required is a list"),
        ({"type": "object", "properties": {"a": {"type": "string"}, "A": {"type": "string"}}}, "differ by case"),
        ({"type": "object", "properties": {"": {"type": "string"}}}, "no property's name"),
        ({"type": "object", "properties": {"a\nb": {"type": "string"}}}, "no property's name"),
        ({"type": "object", "properties": {"a" * 65: {"type": "string"}}}, "no property's name"),
        (of(**{"$ref": "https://example.com/schema.json"}), "none of the schema's own"),
        (of(**{"$ref": "file:///etc/passwd"}), "none of the schema's own"),
        (of(**{"$ref": "#/$defs/Missing"}), "none of the schema's own"),
        (of(**{"$ref": "#"}), "none of the schema's own"),
        (of(**{"$ref": ["#/$defs/N"]}), "none of the schema's own"),
        (of(**{"$ref": "#/$defs/N"}) | {"$defs": {"N": of(**{"$ref": "#/$defs/N"})}}, "refers to itself"),
        (of(type="string", description="a" * 1001), "description is a text"),
        (of(type="string", title="t" * MOST_CHARACTERS), "characters; the most is"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(schema: Any, says: str) -> None:
    with pytest.raises(UnsupportedSchema, match=says):
        normalized(schema)


def test_a_schema_has_bounds() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(MOST_DEPTH + 2):
        deep = of(**deep)
    with pytest.raises(UnsupportedSchema, match="nested deeper"):
        normalized(deep)
    endless: dict[str, Any] = {"type": "object", "properties": {}}
    endless["properties"]["x"] = endless
    with pytest.raises(UnsupportedSchema, match="no JSON"):
        normalized(endless)
    # Each of few lines names the one before it twice: few characters, a million fields.
    laughs: dict[str, Any] = {"D0": {"type": "string"}}
    for k in range(1, 7):
        refers = {"$ref": f"#/$defs/D{k - 1}"}
        laughs[f"D{k}"] = {"type": "object", "properties": {f"f{n}": refers for n in range(10)}}
    with pytest.raises(UnsupportedSchema, match="more than 300 fields"):
        normalized(of(**{"$ref": "#/$defs/D6"}) | {"$defs": laughs})


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["type", "properties", "items", "required", "enum", "anyOf", "$ref", "$defs", "x", "minimum", "pattern"]
    ) | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(ANY)
def test_whatever_is_given_is_read_or_refused(document: Any) -> None:
    try:
        schema = normalized(document)
    except UnsupportedSchema:
        return
    assert normalized(json.loads(json.dumps(schema))) == schema


def test_an_enrichment_keeps_its_schema_and_names_no_code() -> None:
    asked = Enrichment(capability="structured extraction", schema=Receipt)
    assert asked.name == "structured_extraction"
    again = Enrichment.model_validate(json.loads(asked.model_dump_json()))
    assert again == asked and again.parameters["schema"] == normalized(Receipt.model_json_schema())
    for schema in ("os.system", "receipt.json", 3, ["a"]):
        with pytest.raises(ValidationError, match="schema"):
            Enrichment(capability="structured_extraction", schema=schema)
    with pytest.raises(ValidationError, match="needs schema"):
        Enrichment(capability="structured_extraction")
    with pytest.raises(ValidationError, match="takes no schema"):
        Enrichment(capability="image_captioning", schema=of(type="string"))
    with pytest.raises(ValidationError, match="video"):
        Enrichment(capability="structured_extraction", schema=Receipt, media="video")


def test_what_changed_between_two_schemas_is_told() -> None:
    before = normalized(Receipt.model_json_schema())
    after = json.loads(json.dumps(before))
    after["properties"]["tax"] = {"type": ["number", "null"]}
    del after["properties"]["kind"]
    after["properties"]["lines"]["items"]["properties"]["price"]["minimum"] = 1
    assert described_change(before, normalized(after)) == "added tax; removed kind; changed lines[].price"
    assert described_change(before, before) == "reworded"
