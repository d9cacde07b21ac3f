"""Fields out of what a model wrote: a thousand hostile replies end as fields of the schema or as malformed."""

import copy
import json
import random
from typing import Any

import pytest

from sightflow.blocks.models.contract import ReplyError
from sightflow.blocks.models.replies.fields import read_fields
from sightflow.schemas.enrichment import FieldsResult
from sightflow.schemas.extraction.values import problem_of
from sightflow.schemas.failure import Cause
from tests.loopback.hosted_systems import EXTRACT, KEPT, READ

ODD: list[Any] = [
    None, True, False, 0, -1, 1e308, 10**400, 2**63, "", " ", "x" * 10_000, "\0", "2026-13-01", "CASH", "nan", [], {},
    [None], [[[]]], {"a": 1}, [{"name": "tea"}], [{"name": "Tea"}] * 2, float("nan"), float("inf"), "\ud800",
    "</think>",
]  # fmt: skip
AROUND = [
    "{}", "```json\n{}\n```", "```\n```json\n{}\n```\n```", "Here you are: {}", "{} Anything else?",
    "<think>{}</think>{}", "<think>hm</think>{}",
    "[{}]", "{} {}", '{{"receipt": {}}}', "{}<|im_end|>", "{}<|box_start|>",
    '"{}"', "{}}}", "{{{}",
]  # fmt: skip


def places(value: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [so_far, *(place for key, each in inner for place in places(each, (*so_far, key)))]


def spoilt(chance: random.Random) -> str:
    """A good receipt with something missing, added, or of another type, in some wrapping, perhaps broken off."""
    value = json.loads(chance.choice([READ, KEPT]))
    for _ in range(chance.randrange(3)):
        *path, last = chance.choice([place for place in places(value) if place])
        holder = value
        for step in path:
            holder = holder[step]
        match chance.randrange(4):
            case 0:
                del holder[last]
            case 1 if isinstance(holder, dict):
                holder[chance.choice(["extra", "Shop", "__proto__", "total "])] = chance.choice(ODD)
            case _:
                holder[last] = copy.deepcopy(chance.choice(ODD))
    text = chance.choice(AROUND).format(*[json.dumps(value)] * 2)
    match chance.randrange(8):
        case 0:
            return text[: chance.randrange(len(text) + 1)]
        case 1:
            return text.replace('"', "'", chance.randrange(4))
        case 2:
            return text.replace('{"shop"', '{"shop": "twice", "shop"')
    return text


def test_a_thousand_hostile_replies_end_as_valid_fields_or_as_malformed() -> None:
    schema, chance = EXTRACT.extraction_schema, random.Random(20)
    assert schema is not None
    valid, malformed = 0, 0
    for _ in range(1000):
        text = spoilt(chance)
        try:
            fields = read_fields(text, EXTRACT)
        except ReplyError as error:
            malformed += error.cause is Cause.MALFORMED and 0 < len(str(error)) < 1000
            continue
        assert problem_of(json.loads(fields.json), schema) is None
        valid += 1
    assert valid + malformed == 1000 and valid > 100 and malformed > 300


@pytest.mark.parametrize(
    "text", [READ, KEPT, f"```json\n{READ}\n```", f"<think>a till</think>\n{READ}", f"Here: {READ}."]
)
def test_fields_are_kept_in_the_order_of_the_schema_without_what_is_not_there(text: str) -> None:
    assert read_fields(text, EXTRACT) == FieldsResult(KEPT)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no", "holds no JSON"),
        ("[]", "an object with the fields"),
        ('{"shop": "a", "day": "2026-03-01"}', "'total' is a required property"),
        ('{"shop": "a", "day": "1.3.2026", "total": 1}', "day: '1.3.2026' is not a 'date'"),
        ('{"shop": "a", "day": "2026-03-01", "total": -1}', "total: -1 is less than the minimum"),
        ('{"shop": "a", "day": "2026-03-01", "total": 1, "vat": 1}', "'vat' was unexpected"),
        ('{"shop": "a", "day": "2026-03-01", "total": NaN}', "NaN is not a number"),
        ('{"shop": "a", "shop": "b", "day": "2026-03-01", "total": 1}', "a key stands twice"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(ReplyError) as error:
        read_fields(text, EXTRACT)
    assert says in str(error.value)
