"""Values of a user's own fields: each rule of a schema holds, whatever a model says."""

from typing import Any

import pytest

from sightflow.schemas.extraction.json_schema import normalized
from sightflow.schemas.extraction.values import kept, problem_of


def holds(value: Any, **field: Any) -> bool:
    schema = normalized({"type": "object", "properties": {"x": field}, "required": ["x"]})
    given = kept({"x": value}, schema)
    return problem_of(given, schema) is None


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        ({"type": "string"}, ["a", ""], [1, None, True, [], {}, "a\0b"]),
        ({"type": "integer"}, [1, -3, 2.0, 2**63 - 1], [1.5, True, "1", None, 2**63, -(2**63) - 1]),
        ({"type": "number"}, [1, 1.5, -0.0], [True, "1", None, 10**400]),
        ({"type": "boolean"}, [True, False], [0, 1, "true", None]),
        ({"type": ["integer", "null"]}, [1, None], ["1"]),
        ({"type": "string", "enum": ["a", "b"]}, ["a"], ["c", "A", None]),
        ({"type": "string", "enum": ["a", None]}, ["a", None], ["b"]),
        ({"const": 3}, [3, 3.0], [4, "3"]),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 2}, [0, 1.99], [-0.1, 2]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "abc"], ["a", "abcd"]),
        ({"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"}, ["AB1"], ["ab1", "AB1 "]),
        ({"type": "string", "pattern": "(a+)+$"}, ["a" * 5000], ["a" * 5000 + "!"]),
        ({"type": "string", "format": "date"}, ["2026-02-28"], ["2026-02-30", "28.2.2026", "20260228", ""]),
        ({"type": "string", "format": "time"}, ["08:15:00", "08:15:00.5Z"], ["25:00:00", "8:15", "24:61:00"]),
        (
            {"type": "string", "format": "date-time"},
            ["2026-02-28T08:15:00Z", "2026-02-28T08:15:00.123+02:00", "2026-02-28 08:15:00"],
            ["2026-02-30T08:15:00Z", "2026-02-28", "2026-02-28T25:00:00Z", "soon"],
        ),
        ({"type": "string", "format": "email"}, ["a@b.example"], ["a@b", "a b@c.d", "@b.c", "a@@b.c"]),
        ({"type": "string", "format": "ipv4"}, ["127.0.0.1"], ["127.0.0", "::1", "256.0.0.1"]),
        ({"type": "string", "format": "ipv6"}, ["::1"], ["127.0.0.1", "g::"]),
        ({"type": "string", "format": "uri"}, ["https://a.example/b", "mailto:a@b.c"], ["a.example", "http://a b", ""]),
        ({"type": "string", "format": "uuid"}, ["6f1c9d0e-2b7a-4c3e-9f00-0123456789ab"], ["6f1c", "x" * 36]),
        (
            {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2, "uniqueItems": True},
            [[1], [1, 2]],
            [[], [1, 2, 3], [1, 1], ["1"], {"0": 1}, 1],
        ),
        (
            {"type": "object", "properties": {"y": {"type": "string"}, "z": {"type": "integer"}}, "required": ["y"]},
            [{"y": "a"}, {"z": 1, "y": "a"}],
            [{}, {"z": 1}, {"y": 1}, {"y": "a", "other": 1}, [], "a"],
        ),
    ],
)
def test_each_rule_holds(field: dict[str, Any], right: list[Any], wrong: list[Any]) -> None:
    assert [value for value in right if not holds(value, **field)] == []
    assert [value for value in wrong if holds(value, **field)] == []


def test_null_is_absence_where_a_field_is_optional_and_cannot_be_null() -> None:
    inner = {"type": "object", "properties": {"b": {"type": "integer"}, "c": {"type": ["integer", "null"]}}}
    schema = normalized({"type": "object", "properties": {"a": {"type": "string"}, "in": inner}, "required": ["in"]})
    given = {"in": {"c": None, "b": None}, "a": None}
    assert kept(given, schema) == {"in": {"c": None}}
    assert problem_of(kept(given, schema), schema) is None
    assert problem_of(kept({"in": None}, schema), schema)


def test_a_problem_says_where_and_quotes_little() -> None:
    line = {"type": "object", "properties": {"n": {"type": "integer"}}}
    schema = normalized({"type": "object", "properties": {"lines": {"type": "array", "items": line}}})
    problem = problem_of({"lines": [{"n": 1}, {"n": "x" * 10_000}]}, schema)
    assert problem is not None and problem.startswith("lines[1].n: ") and len(problem) < 400
