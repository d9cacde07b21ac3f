"""Values of a user's own fields: whether they are of their schema, and as they are kept."""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID

from sightflow.schemas.extraction.json_schema import matches_pattern

if TYPE_CHECKING:
    import jsonschema

_WHOLE = range(-(2**63), 2**63)
_TIME = re.compile(r"\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s.]+(?:\.[^@\s.]+)+")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def is_nullable(schema: Mapping[str, Any]) -> bool:
    """Whether null is a value of a (normalized) schema."""
    return isinstance(schema["type"], list)


def type_of(schema: Mapping[str, Any]) -> str:
    """The type of a (normalized) schema, beside null."""
    kind = schema["type"]
    return str(kind[0] if isinstance(kind, list) else kind)


def kept(value: Any, schema: Mapping[str, Any]) -> Any:
    """A value as it is kept: fields in the order of the schema; null for an optional field that cannot be null is taken
    as its absence, which strict modes cannot say otherwise; whole numbers without a fraction.

    What is not of the schema is left as it is: `problem_of` tells.
    """
    match type_of(schema):
        case "object" if isinstance(value, dict):
            fields = schema["properties"]
            absent = {
                name
                for name in value
                if value[name] is None and name in fields and name not in schema["required"]
                if not is_nullable(fields[name])
            }
            ordered = [*(name for name in fields if name in value), *(name for name in value if name not in fields)]
            return {
                name: kept(value[name], fields[name]) if name in fields else value[name]
                for name in ordered
                if name not in absent
            }
        case "array" if isinstance(value, list):
            return [kept(each, schema["items"]) for each in value]
        case "integer" if isinstance(value, float) and value.is_integer():
            return int(value)
        case _:
            return value


def problem_of(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Why a value is not of a (normalized) schema, with the place, or None. What is quoted of it is short."""
    error = next(iter(_validator(json.dumps(schema)).iter_errors(value)), None)
    if error is None:
        return next(_unstorable(value, schema, ""), None)
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path).lstrip(".")
    return f"{place[:120]}: {error.message[:200]}" if place else str(error.message)[:200]


def _unstorable(value: Any, schema: Mapping[str, Any], place: str) -> Iterator[str]:
    """What JSON can say and a column cannot hold."""
    match type_of(schema):
        case "object" if isinstance(value, dict):
            for name, each in value.items():
                yield from _unstorable(each, schema["properties"][name], f"{place}.{name}" if place else name)
        case "array" if isinstance(value, list):
            for each in value:
                yield from _unstorable(each, schema["items"], f"{place}[]")
        case "integer" if value is not None and value not in _WHOLE:
            yield f"{place}: a whole number of more than 64 bits"
        case "number" if value is not None and not _finite(value):
            yield f"{place}: a number that is not finite"
        case "string" if value is not None and _NO_TEXT.search(value):
            yield f"{place}: a NUL character or half of a surrogate pair, which no text holds"


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    """A validator whose patterns cannot take long, and whose formats are those of `json_schema.FORMATS`."""
    import jsonschema

    def pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
        if isinstance(instance, str) and not matches_pattern(pattern, instance):
            yield jsonschema.ValidationError(f"{instance[:80]!r} does not match {pattern!r}")

    validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": pattern})
    checker = jsonschema.FormatChecker(formats=())
    checker.checkers = {name: (check, ()) for name, check in _FORMATS.items()}
    return validator(json.loads(schema), format_checker=checker)


def _text_check(check: Callable[[str], Any]) -> Callable[[object], bool]:
    def passes(value: object) -> bool:
        if not isinstance(value, str):
            return True
        try:
            return bool(check(value))
        except ValueError:
            return False

    return passes


def _date_time(text: str) -> bool:
    day, clock = text[:10], text[11:]
    return text[10:11] in ("T", "t", " ") and _is_date(day) and _is_time(clock) and bool(datetime.fromisoformat(text))


def _is_date(text: str) -> bool:
    return bool(_DATE.fullmatch(text) and date.fromisoformat(text))


def _is_time(text: str) -> bool:
    return bool(_TIME.fullmatch(text)) and time.fromisoformat(text[:8]) is not None


def _uri(text: str) -> bool:
    parts = urlsplit(text)
    return bool(parts.scheme and (parts.netloc or parts.path)) and not any(map(str.isspace, text))


_FORMATS: dict[str, Callable[[object], bool]] = {
    "date": _text_check(_is_date),
    "date-time": _text_check(_date_time),
    "time": _text_check(_is_time),
    "email": _text_check(_EMAIL.fullmatch),
    "ipv4": _text_check(ipaddress.IPv4Address),
    "ipv6": _text_check(ipaddress.IPv6Address),
    "uri": _text_check(_uri),
    "uuid": _text_check(lambda text: _UUID.fullmatch(text) and UUID(text)),
}
