"""One schema as each provider takes it: the servers on loopback answer 400 to what the vendors say they refuse."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightflow.blocks.models.engines.providers.enforced_schemas import gemini_schema, openai_strict
from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import FieldsResult
from sightflow.schemas.extraction.json_schema import normalized
from sightflow.schemas.failure import Cause
from tests.loopback.endpoint_api import EndpointOnLoopback
from tests.loopback.gemini_api import check_supported
from tests.loopback.hosted_systems import CHOOSE, EXTRACT, GENERATIONS, GPT, KEPT, QWEN, READ, named, request
from tests.loopback.openai_api import check_strict
from tests.loopback.server import Reaction, Received, Say, Status, in_turn
from tests.loopback.virtual_clock import VirtualClock

SENT: dict[str, Any] = {
    "gpt-4o": lambda body: body.get("response_format", {}).get("json_schema", {}).get("schema"),
    "gemini": lambda body: (body.get("generationConfig") or {}).get("responseJsonSchema"),
    "qwen-vl-max": lambda body: body["parameters"].get("response_format"),
}


@pytest.mark.parametrize("system", GENERATIONS, ids=named)
def test_the_same_fields_come_from_every_vendor_and_its_own_subset_is_sent(system) -> None:
    with system.on_loopback(lambda _: Say(READ)) as provider:
        (reply,) = system.connect(provider).run([request(EXTRACT)])
    assert provider.complaints == [] and reply.outcome == FieldsResult(KEPT)
    sent = SENT[system.name](provider.received[0].body)
    if system.name == "qwen-vl-max":
        assert sent == {"type": "json_object"}
        return
    shop, rating, paid = (sent["properties"][name] for name in ("shop", "rating", "paid"))
    assert shop == {"type": "string"}  # the reader counts its letters
    assert sent["properties"]["lines"]["items"]["additionalProperties"] is False
    if system.name == "gpt-4o":
        assert sent["required"] == list(sent["properties"])
        assert paid == {"type": ["string", "null"], "enum": ["cash", "card", None]}
        assert sent["properties"]["total"]["exclusiveMaximum"] == 1_000_000
    else:
        assert sent["required"] == ["shop", "day", "total"]
        assert rating == {"anyOf": [{"type": "string", "enum": ["good", "bad"]}, {"type": "null"}]}


@pytest.mark.parametrize("system", GENERATIONS, ids=named)
def test_it_can_be_turned_off_and_the_reader_checks_all_the_same(system) -> None:
    with system.on_loopback(lambda _: Say(READ.replace("12.5", "-1"))) as provider:
        model = system.connect(provider, enforce_reply_form=False)
        (reply,) = model.run([request(EXTRACT)])
    assert SENT[system.name](provider.received[0].body) is None
    assert reply.failure.cause is Cause.MALFORMED and "-1 is less than the minimum" in reply.failure.message
    assert [received.is_repair for received in provider.received] == [False, True]
    assert reply.failure.raw_reply and READ[:20] in reply.failure.raw_reply


def test_recipes_tell_of_a_setting_only_where_it_changes_what_is_sent() -> None:
    recipe = lambda system, asked, **settings: system.model(id=system.id, **settings).recipe(asked, MediaKind.IMAGE)  # noqa: E731
    assert recipe(GPT, CHOOSE) != recipe(GPT, CHOOSE, enforce_reply_form=False)
    assert recipe(QWEN, CHOOSE) == recipe(QWEN, CHOOSE, enforce_reply_form=False)  # it enforces no choices
    assert recipe(QWEN, EXTRACT) != recipe(QWEN, EXTRACT, enforce_reply_form=False)


LEAF = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "format": "uri", "minLength": 1, "pattern": "a"},
        {"type": "string", "format": "date-time"},
        {"type": "string", "format": "uuid"},
        {"type": ["string", "null"], "enum": ["a", None]},
        {"type": "integer", "minimum": 0, "exclusiveMaximum": 9},
        {"type": "integer", "enum": [1, 2]},
        {"type": "number", "description": "of metres"},
        {"type": "boolean", "enum": [True]},
        {"type": ["boolean", "null"]},
    ]
)
SCHEMAS = st.recursive(
    LEAF,
    lambda inner: (
        st.builds(lambda items: {"type": "array", "items": items, "minItems": 1, "uniqueItems": True}, inner)
        | st.builds(
            lambda fields, required: {
                "type": "object",
                "properties": fields,
                "required": [name for name in fields if name in required],
            },
            st.dictionaries(st.sampled_from("abcd"), inner, min_size=1),
            st.sets(st.sampled_from("abcd")),
        )
    ),
    max_leaves=8,
)


@given(SCHEMAS)
@settings(max_examples=60)
def test_any_schema_becomes_one_that_a_vendor_takes(field: dict[str, Any]) -> None:
    schema = normalized({"type": "object", "properties": {"x": field}})
    check_strict(openai_strict(schema))
    check_supported(gemini_schema(schema))
    assert openai_strict(openai_strict(schema)) == openai_strict(schema)


# --- servers of open weights --------------------------------------------------------------------


def served(server: EndpointOnLoopback, **settings: Any) -> Qwen2VL:
    model = Qwen2VL(engine="endpoint", endpoint_url=server.url, max_concurrency=1, **settings)
    model.open_engine().clock = VirtualClock()  # type: ignore[attr-defined]
    return model


def answering(received: Received) -> Say:
    return Say('{"answer": "yes"}' if "exactly one" in received.texts[-1] else KEPT)


def test_a_server_is_sent_the_whole_schema_and_told_that_it_is_strict() -> None:
    with EndpointOnLoopback(answering) as server:
        (reply,) = served(server).run([request(EXTRACT)])
    assert reply.outcome == FieldsResult(KEPT) and server.complaints == []
    sent = server.received[0].body["response_format"]["json_schema"]
    assert sent["strict"] is True and sent["schema"] == json.loads(json.dumps(EXTRACT.extraction_schema))


def test_a_server_that_lacks_a_keyword_is_asked_without_this_schema_and_with_every_other_form() -> None:
    with EndpointOnLoopback(answering, lacks="uniqueItems") as server:
        replies = served(server).run([request(each) for each in (EXTRACT, EXTRACT, CHOOSE)])
    assert [reply.failure for reply in replies] == [None] * 3
    assert len(server.complaints) == 1
    enforced = ["response_format" in received.body for received in server.received]
    assert enforced == [False, False, True]
    assert all(received.body["skip_special_tokens"] is False for received in server.received)


def test_a_server_that_knows_nothing_more_is_found_out_once_and_sent_the_protocol_s_own_subset() -> None:
    with EndpointOnLoopback(answering, knows_more=False, lacks="uniqueItems") as server:
        replies = served(server).run([request(each) for each in (EXTRACT, EXTRACT, EXTRACT)])
    assert [reply.failure for reply in replies] == [None] * 3
    assert len(server.complaints) == 2 and len(server.received) == 3
    for received in server.received:
        sent = received.body["response_format"]["json_schema"]["schema"]
        assert sent["required"] == list(sent["properties"]) and "skip_special_tokens" not in received.body


def test_a_form_that_the_server_fails_at_is_left_off_without_waiting_and_soon_for_good() -> None:
    """vLLM answers 500 where the model's vocabulary cannot spell a form."""

    def failing(received: Received) -> Reaction:
        return Status(500, "internal_error") if "response_format" in received.body else answering(received)

    with EndpointOnLoopback(failing) as server:
        model = served(server)
        replies = model.run([request(each) for each in (CHOOSE, CHOOSE, CHOOSE, CHOOSE, CHOOSE, EXTRACT)])
        assert model.open_engine().clock.waits == []  # type: ignore[attr-defined]
    assert [reply.failure for reply in replies] == [None] * 6
    enforced = ["response_format" in received.body for received in server.received]
    assert enforced == [True, False] * 3 + [False] * 2 + [True, False]


def test_a_server_that_fails_by_chance_is_sent_the_form_again() -> None:
    with EndpointOnLoopback(in_turn(Status(500), Status(500), Say('{"answer": "yes"}'))) as server:
        replies = served(server).run([request(CHOOSE), request(CHOOSE)])
    assert [reply.failure for reply in replies] == [None] * 2
    enforced = ["response_format" in received.body for received in server.received]
    assert enforced == [True, False, True, True]


def test_an_endpoint_is_left_free_where_that_is_set() -> None:
    with EndpointOnLoopback(answering) as server:
        (reply,) = served(server, enforce_reply_form=False).run([request(EXTRACT)])
    assert reply.outcome == FieldsResult(KEPT)
    assert "response_format" not in server.received[0].body
