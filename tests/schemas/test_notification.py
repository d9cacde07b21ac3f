"""What stores say of uploads is understood in each of its forms; what is no notification says so."""

import json
from contextlib import suppress
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightflow.schemas.notification import MalformedNotification, Upload, uploads_in

BUCKET = "shop"


def record(key: str, name: str = "ObjectCreated:Put", **facts: Any) -> dict[str, Any]:
    """A record as S3 sends it: event message structure 2.x."""
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventTime": "2026-11-25T02:00:00.000Z",
        "eventName": name,
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": BUCKET}, "object": {"key": quote_plus(key), **facts}},
    }


def s3(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": list(records)})


def event_bridge(key: str, detail_type: str = "Object Created") -> str:
    detail = {
        "version": "0",
        "bucket": {"name": BUCKET},
        "object": {"key": key, "size": 5, "etag": "e", "sequencer": "1"},
    }
    return json.dumps({"version": "0", "source": "aws.s3", "detail-type": detail_type, "detail": detail})


def minio(key: str) -> str:
    return json.dumps(
        {
            "EventName": "s3:ObjectCreated:Put",
            "Key": f"{BUCKET}/{key}",
            "Records": [record(key, "s3:ObjectCreated:Put")],
        }
    )


def sns(body: str) -> str:
    return json.dumps({"Type": "Notification", "MessageId": "1", "TopicArn": "arn", "Message": body})


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_key_comes_through_in_every_form(key: str) -> None:
    uri = f"s3://{BUCKET}/{key}"
    for body in (s3(record(key)), event_bridge(key), minio(key), sns(s3(record(key))), sns(event_bridge(key))):
        assert [upload.uri for upload in uploads_in(body)] == [uri]


def test_removals_and_test_messages_tell_of_no_upload() -> None:
    assert uploads_in('{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"shop"}') == []
    assert uploads_in(s3(record("a", "ObjectRemoved:Delete"))) == []
    assert uploads_in(event_bridge("a", "Object Deleted")) == []
    assert uploads_in(s3()) == []


def test_one_notification_twice_is_the_same_event_and_another_upload_is_not() -> None:
    (once,) = uploads_in(s3(record("a", sequencer="0055")))
    assert uploads_in(s3(record("a", sequencer="0055"))) == [once]
    assert uploads_in(s3(record("a", sequencer="0056"))) != [once]
    assert uploads_in(s3(record("a", eTag="x"))) == uploads_in(s3(record("a", eTag="x")))
    assert uploads_in(s3(record("a"))) == [Upload("s3://shop/a")]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        "{}",
        '{"Records": 1}',
        '{"Records": [1]}',
        '{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}}}]}',
        '{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": ""}, "object": {"key": "k"}}}]}',
        '{"Type": "Notification", "Message": "not json"}',
        "[" * 100_000,
    ],
)
def test_what_no_store_sends_is_told_apart(body: str) -> None:
    with pytest.raises(MalformedNotification):
        uploads_in(body)


def test_one_record_that_is_none_costs_the_others_of_its_message_nothing() -> None:
    for body in (s3(record("a"), {"eventName": "x"}, record("b")), sns(s3(record("a"), 1, record("b")))):  # type: ignore[arg-type]
        with pytest.raises(MalformedNotification) as raised:
            uploads_in(body)
        assert [upload.uri for upload in raised.value.uploads] == ["s3://shop/a", "s3://shop/b"]


@given(st.text())
def test_no_text_does_worse_than_being_malformed(body: str) -> None:
    with suppress(MalformedNotification):
        uploads_in(body)


def test_envelopes_are_not_opened_for_ever() -> None:
    body = s3(record("a"))
    for _ in range(10):
        body = sns(body)
    with pytest.raises(MalformedNotification):
        uploads_in(body)
