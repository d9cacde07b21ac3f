"""The columns that a user's own fields become in SQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sightflow.schemas.extraction.values import type_of

_TYPES = {"string": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}


def structure(schema: Mapping[str, Any]) -> Any:
    """The structure of a (normalized) schema as DuckDB's `from_json` takes it
    (https://duckdb.org/docs/stable/data/json/json_functions): a STRUCT for an object, a LIST for an array, DATE for a
    date; every other string is text.
    """
    match type_of(schema):
        case "object":
            return {name: structure(each) for name, each in schema["properties"].items()}
        case "array":
            return [structure(schema["items"])]
        case kind:
            return "DATE" if schema.get("format") == "date" else _TYPES[kind]


def described_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What differs between two (normalized) schemas, in a few words."""
    old, new = _leaves(before), _leaves(after)
    parts = [
        f"{word} {', '.join(names[:5])}{' and more' if len(names) > 5 else ''}"
        for word, names in (
            ("added", [name for name in new if name not in old]),
            ("removed", [name for name in old if name not in new]),
            ("changed", [name for name in new if name in old and new[name] != old[name]]),
        )
        if names
    ]
    return "; ".join(parts) or "reworded"


def _leaves(schema: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """The fields of a schema by their dotted names, each with what is said of it but its own fields."""
    found: dict[str, Any] = {}
    if type_of(schema) == "array":
        return _leaves(schema["items"], f"{place}[]")
    for name, each in schema.get("properties", {}).items():
        inner = f"{place}.{name}" if place else name
        rest = {key: value for key, value in each.items() if key not in ("properties", "items", "required")}
        found[inner] = rest | {"required": name in schema["required"]}
        found |= _leaves(each, inner)
    return found
