"""The part of JSON Schema (https://json-schema.org/draft/2020-12) in which fields are asked for.

It is what can become columns and what every engine can be held to or checked for: an object of named fields, lists and
objects within it, no field of two types. A keyword that is not understood is refused and never ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

MOST_CHARACTERS: Final = 20_000
MOST_DEPTH: Final = 8
MOST_FIELDS: Final = 300
LONGEST_PATTERN: Final = 500
FORMATS: Final = ("date", "date-time", "time", "email", "ipv4", "ipv6", "uri", "uuid")
_LONGEST_NAME = 64
_LONGEST_DESCRIPTION = 1000
_SAYS_NOTHING = frozenset(
    {"title", "default", "examples", "$schema", "$id", "$comment", "deprecated", "readOnly", "writeOnly"}
)
"""Annotations: what is valid does not depend on them."""
_COUNTS = {"string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_KEYWORDS: Final[Mapping[str, frozenset[str]]] = {
    "string": frozenset({"enum", "minLength", "maxLength", "pattern", "format"}),
    "integer": frozenset({"enum", *_BOUNDS}),
    "number": frozenset({"enum", *_BOUNDS}),
    "boolean": frozenset({"enum"}),
    "array": frozenset({"items", "minItems", "maxItems", "uniqueItems"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
}
_PYTHON_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


class UnsupportedSchema(ValueError):
    """A schema that cannot become columns, or that cannot be read; it says where and why."""


def normalized(document: Any) -> dict[str, Any]:
    """A schema as it is kept, sent and checked: references resolved, annotations but descriptions taken off, closed.

    Every object has `properties`, `required` and `additionalProperties: false`; a field that may be null has the type
    `[TYPE, "null"]`. The order of the fields stays. Raises UnsupportedSchema, with the place.
    """
    if not isinstance(document, Mapping):
        raise UnsupportedSchema("a schema is an object: {type: object, properties: {NAME: {type: string}}}")
    try:
        size = len(json.dumps(document, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise UnsupportedSchema("the schema is no JSON: keys are text, numbers are finite") from None
    if size > MOST_CHARACTERS:
        raise UnsupportedSchema(f"the schema has {size:,} characters; the most is {MOST_CHARACTERS:,}")
    root = _Reader(document).read(document, "", ())
    if root["type"] != "object":
        raise UnsupportedSchema("the schema's root is an object, whose properties become the fields")
    return root


@dataclass
class _Reader:
    """Reads one document. `fields`: how many have been read, copies of what is referred to included."""

    document: Mapping[str, Any]
    fields: int = field(default=0)

    def read(self, node: Any, place: str, within: tuple[str, ...], depth: int = 0) -> dict[str, Any]:
        """One schema in canonical form. `within`: the references that lead here."""
        if not isinstance(node, Mapping):
            raise UnsupportedSchema(f"{_at(place)}a schema is an object, e.g. {{type: string}}")
        self.fields += 1
        if depth > MOST_DEPTH:
            raise UnsupportedSchema(f"{_at(place)}nested deeper than {MOST_DEPTH}")
        if self.fields > MOST_FIELDS:
            raise UnsupportedSchema(f"the schema has more than {MOST_FIELDS} fields")
        given = {key: value for key, value in node.items() if key not in _SAYS_NOTHING}
        if not place:
            given = {key: value for key, value in given.items() if key not in ("$defs", "definitions")}
        if "$ref" in given:
            reference = given.pop("$ref")
            target = self._target(reference, place, within)
            return self.read(dict(target) | given, place, (*within, reference), depth)
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword in given:
                return self._read_either(given, keyword, place, within, depth)
        return self._read_typed(given, place, within, depth)

    def _target(self, reference: Any, place: str, within: tuple[str, ...]) -> Mapping[str, Any]:
        for section in ("$defs", "definitions"):
            name = str(reference).removeprefix(f"#/{section}/")
            definitions = self.document.get(section)
            if name != reference and isinstance(definitions, Mapping) and name in definitions:
                if reference in within:
                    raise UnsupportedSchema(f"{_at(place)}{reference} refers to itself; columns have no end then")
                target = definitions[name]
                if isinstance(target, Mapping):
                    return target
        raise UnsupportedSchema(f"{_at(place)}$ref: {str(reference)[:80]!r} is none of the schema's own #/$defs/NAME")

    def _read_either(
        self, given: dict[str, Any], keyword: str, place: str, within: tuple[str, ...], depth: int
    ) -> dict[str, Any]:
        """`anyOf: [SCHEMA, {type: "null"}]`, as pydantic writes what may be None; or a list of one schema."""
        options = given.pop(keyword)
        if not isinstance(options, list):
            raise UnsupportedSchema(f"{_at(place)}{keyword} is a list of schemas")
        others = [each for each in options if each != {"type": "null"}]
        if len(others) != 1 or (keyword == "allOf" and len(options) > 1):
            allowed = "one schema" if keyword == "allOf" else "one schema and {type: null}"
            raise UnsupportedSchema(f"{_at(place)}{keyword} of more than {allowed}: a column has one type")
        if not isinstance(others[0], Mapping):
            raise UnsupportedSchema(f"{_at(place)}{keyword} is a list of schemas")
        read = self.read(dict(others[0]) | given, place, within, depth)
        return _nullable(read) if len(options) > 1 else read

    def _read_typed(self, given: dict[str, Any], place: str, within: tuple[str, ...], depth: int) -> dict[str, Any]:
        if "const" in given:
            given["enum"] = [given.pop("const")]
        kind, nullable = _type_of(given, place)
        allowed = _KEYWORDS[kind]
        if unknown := sorted(set(given) - allowed - {"type", "description"}):
            raise UnsupportedSchema(
                f"{_at(place)}{', '.join(unknown)}: not supported for {kind}; supported: {', '.join(sorted(allowed))}"
            )
        read: dict[str, Any] = {"type": kind}
        if (description := given.get("description")) is not None:
            if not isinstance(description, str) or len(description) > _LONGEST_DESCRIPTION:
                raise UnsupportedSchema(f"{_at(place)}description is a text, of at most {_LONGEST_DESCRIPTION:,}")
            read["description"] = description
        match kind:
            case "object":
                read |= self._fields(given, place, within, depth)
            case "array":
                if "items" not in given:
                    raise UnsupportedSchema(f"{_at(place)}a list says what it holds: items: {{type: string}}")
                read["items"] = self.read(given["items"], f"{place}[]", within, depth + 1)
                read |= _flag(given, "uniqueItems", place)
        read |= _limits(given, kind, place) | _enum(given, kind, place)
        if kind == "string":
            read |= _spelling(given, place)
        return _nullable(read) if nullable else read

    def _fields(self, given: dict[str, Any], place: str, within: tuple[str, ...], depth: int) -> dict[str, Any]:
        properties, required = given.get("properties"), given.get("required", [])
        if not isinstance(properties, Mapping) or not properties:
            raise UnsupportedSchema(f"{_at(place)}an object names its properties, which become columns")
        if given.get("additionalProperties", False) is not False:
            raise UnsupportedSchema(f"{_at(place)}additionalProperties: name the columns as properties")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise UnsupportedSchema(f"{_at(place)}required is a list of names")
        if missing := sorted(set(required) - set(properties)):
            raise UnsupportedSchema(f"{_at(place)}required names {', '.join(missing)}, which properties does not")
        if len({str(name).casefold() for name in properties}) != len(properties):
            raise UnsupportedSchema(f"{_at(place)}two properties differ by case alone, which SQL does not see")
        for name in properties:
            if not (isinstance(name, str) and name.strip() and name.isprintable() and len(name) <= _LONGEST_NAME):
                raise UnsupportedSchema(
                    f"{_at(place)}{str(name)[:80]!r} is no property's name: 1 to {_LONGEST_NAME} printable characters"
                )
        read = {
            name: self.read(node, f"{place}.{name}" if place else name, within, depth + 1)
            for name, node in properties.items()
        }
        return {
            "properties": read,
            "required": [name for name in properties if name in required],
            "additionalProperties": False,
        }


def _at(place: str) -> str:
    return f"schema, at {place}: " if place else "schema: "


def _type_of(given: Mapping[str, Any], place: str) -> tuple[str, bool]:
    """The type of a schema, and whether it may be null as well."""
    said, values = given.get("type"), given.get("enum")
    if said is None and "properties" in given:
        said = "object"
    if said is None and isinstance(values, list):
        found = [kind for kind in _PYTHON_TYPES if all(v is None or _is(v, kind) for v in values)]
        said = found[0] if found else None
    kinds = said if isinstance(said, list) else [said]
    others = [kind for kind in kinds if kind != "null"]
    if len(others) != 1 or not isinstance(others[0], str) or others[0] not in _KEYWORDS:
        raise UnsupportedSchema(f"{_at(place)}type is one of {', '.join(_KEYWORDS)}, or that and null in a list")
    return others[0], "null" in kinds or (isinstance(values, list) and None in values)


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _PYTHON_TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _nullable(read: dict[str, Any]) -> dict[str, Any]:
    kind = read["type"]
    read = read | {"type": kind if isinstance(kind, list) else [kind, "null"]}
    if "enum" in read and None not in read["enum"]:
        read["enum"] = [*read["enum"], None]
    return read


def _flag(given: Mapping[str, Any], keyword: str, place: str) -> dict[str, Any]:
    if not isinstance(given.get(keyword, False), bool):
        raise UnsupportedSchema(f"{_at(place)}{keyword} is true or false")
    return {keyword: True} if given.get(keyword) else {}


def _limits(given: Mapping[str, Any], kind: str, place: str) -> dict[str, Any]:
    counts = _COUNTS.get(kind, ())
    limits = {name: given[name] for name in (*counts, *_BOUNDS) if name in given}
    for name, value in limits.items():
        whole = name in counts
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or (whole and value < 0):
            raise UnsupportedSchema(f"{_at(place)}{name} is {'a whole number from 0 on' if whole else 'a number'}")
    least = max((limits[n] for n in limits if n in (*counts[:1], "minimum", "exclusiveMinimum")), default=-math.inf)
    most = min((limits[n] for n in limits if n in (*counts[1:], "maximum", "exclusiveMaximum")), default=math.inf)
    if least > most:
        raise UnsupportedSchema(f"{_at(place)}nothing is at least {least} and at most {most}")
    return limits


def _enum(given: Mapping[str, Any], kind: str, place: str) -> dict[str, Any]:
    if "enum" not in given:
        return {}
    values = given["enum"]
    if not isinstance(values, list) or not values or not all(v is None or _is(v, kind) for v in values):
        raise UnsupportedSchema(f"{_at(place)}enum is a list of values of the type {kind}")
    return {"enum": values}


def _spelling(given: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The pattern and the format of a string, if they can be checked: a pattern in time that grows with the text."""
    read: dict[str, Any] = {}
    if "format" in given:
        if given["format"] not in FORMATS:
            raise UnsupportedSchema(f"{_at(place)}format is one of {', '.join(FORMATS)}")
        read["format"] = given["format"]
    if "pattern" in given:
        pattern = given["pattern"]
        if not isinstance(pattern, str) or len(pattern) > LONGEST_PATTERN:
            raise UnsupportedSchema(f"{_at(place)}pattern is text of at most {LONGEST_PATTERN} characters")
        try:
            matches_pattern(pattern, "")
        except pl.exceptions.ComputeError:
            raise UnsupportedSchema(
                f"{_at(place)}pattern: not a regular expression that can be checked in bounded time and memory "
                "(no look-around, no back-references, no huge repetition)"
            ) from None
        read["pattern"] = pattern
    return read


def matches_pattern(pattern: str, text: str) -> bool:
    """Whether a pattern is found in a text, by Rust's regular expressions: in linear time, whatever the pattern.

    Raises polars' ComputeError if it is none of these.
    """
    readable = text.encode("utf-8", "replace").decode()  # JSON can hold half of a surrogate pair
    return bool(pl.Series([readable]).str.contains(pattern, strict=True).item())
