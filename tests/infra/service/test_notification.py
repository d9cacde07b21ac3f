"""What stores say of uploads is understood in each of its forms; what is no notification says so."""

import json
from base64 import b64encode
from contextlib import suppress
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightflow.infra.service.notification import MalformedNotification, Upload, uploads_in

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


def storage_object(key: str, **facts: Any) -> dict[str, Any]:
    """An object as Cloud Storage describes it: JSON API v1."""
    return {"kind": "storage#object", "name": key, "bucket": BUCKET, "generation": "17", "size": "5", **facts}


def pubsub(key: str, event: str = "OBJECT_FINALIZE", payload: bool = True, **attributes: str) -> str:
    """A notification of Cloud Storage as Pub/Sub has it in JSON, with either format of its payload."""
    told = {
        "eventType": event,
        "payloadFormat": "JSON_API_V1" if payload else "NONE",
        "bucketId": BUCKET,
        "objectId": key,
        "objectGeneration": "17",
        "eventTime": "2026-11-25T02:00:00.000000Z",
        "notificationConfig": f"projects/_/buckets/{BUCKET}/notificationConfigs/1",
        **attributes,
    }
    return pubsub_message(json.dumps(storage_object(key)) if payload else "", **told)


def pubsub_message(data: str, **attributes: str) -> str:
    return json.dumps({"attributes": attributes, "data": b64encode(data.encode()).decode()})


def event_grid(key: str, event: str = "BlobCreated", **data: Any) -> dict[str, Any]:
    """An event of Azure's Blob Storage in Event Grid's schema."""
    return {
        "topic": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/shop",
        "subject": f"/blobServices/default/containers/{BUCKET}/blobs/{key}",
        "eventType": f"Microsoft.Storage.{event}",
        "eventTime": "2026-11-25T02:00:00.0000000Z",
        "id": "831e1650-001e-001b-66ab-eeb76e069631",
        "data": {"api": "PutBlockList", "eTag": "0x8D4", "url": f"https://shop.blob/{BUCKET}/{quote(key)}", **data},
        "dataVersion": "",
        "metadataVersion": "1",
    }


def cloud_event(key: str, event: str = "BlobCreated", **data: Any) -> dict[str, Any]:
    """The same as CloudEvents 1.0."""
    told = event_grid(key, event, **data)
    return {
        "specversion": "1.0",
        "source": told["topic"],
        "type": told["eventType"],
        "time": told["eventTime"],
        **{name: told[name] for name in ("subject", "id", "data")},
    }


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_key_comes_through_in_every_form(key: str) -> None:
    uri = f"s3://{BUCKET}/{key}"
    for body in (pubsub(key), pubsub(key, payload=False), pubsub_message(json.dumps(storage_object(key)))):
        assert uploads_in(body) == [Upload(f"gs://{BUCKET}/{key}", "17")]
    for event in (event_grid(key), cloud_event(key)):
        for body in (json.dumps(event), json.dumps([event])):
            assert uploads_in(body) == [Upload(f"az://{BUCKET}/{key}", str(event["id"]))]
    for body in (s3(record(key)), event_bridge(key), minio(key), sns(s3(record(key))), sns(event_bridge(key))):
        assert [upload.uri for upload in uploads_in(body)] == [uri]


def test_removals_and_test_messages_tell_of_no_upload() -> None:
    assert uploads_in('{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"shop"}') == []
    assert uploads_in(s3(record("a", "ObjectRemoved:Delete"))) == []
    assert uploads_in(event_bridge("a", "Object Deleted")) == []
    assert uploads_in(s3()) == []
    for event in ("OBJECT_DELETE", "OBJECT_ARCHIVE", "OBJECT_METADATA_UPDATE"):
        assert uploads_in(pubsub("a", event)) == []
    removed = storage_object("a", timeDeleted="2026-11-25T02:00:00.000Z")
    assert uploads_in(pubsub_message(json.dumps(removed))) == []
    told = {"ce-type": "google.cloud.storage.object.v1.deleted"}
    assert uploads_in(pubsub_message(json.dumps(storage_object("a")), **told)) == []
    for what in ("BlobDeleted", "DirectoryCreated", "BlobTierChanged"):
        assert uploads_in(json.dumps(event_grid("a", what))) == uploads_in(json.dumps(cloud_event("a", what))) == []
    # A Data Lake tells of a file when it is made, empty, and when it is written.
    assert uploads_in(json.dumps(event_grid("a", api="CreateFile"))) == []
    assert uploads_in(json.dumps(event_grid("a", api="FlushWithClose"))) != []


def test_a_blob_that_got_another_name_appears_under_it() -> None:
    (renamed,) = uploads_in(json.dumps(event_grid("new.png", "BlobRenamed", destinationUrl="https://shop.dfs/x")))
    assert renamed.uri == f"az://{BUCKET}/new.png"


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
        "null",
        '"text"',
        "{}",
        '{"Records": 1}',
        '{"Records": [1]}',
        '{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}}}]}',
        '{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": ""}, "object": {"key": "k"}}}]}',
        '{"Type": "Notification", "Message": "not json"}',
        "[" * 100_000,
        '{"attributes": {"eventType": "OBJECT_FINALIZE", "bucketId": "b"}, "data": ""}',
        '{"attributes": {"eventType": "OBJECT_FINALIZE", "bucketId": "", "objectId": "k"}, "data": ""}',
        '{"attributes": {}, "data": "%%%"}',
        '{"attributes": {}, "data": "/w=="}',
        '{"kind": "storage#object", "bucket": "b"}',
        '{"eventType": "Microsoft.Storage.BlobCreated", "subject": "/elsewhere"}',
        '{"specversion": "1.0", "type": "Microsoft.Storage.BlobCreated", "subject": ""}',
        '[{"eventType": "Microsoft.Storage.BlobCreated"}]',
        "[1]",
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
    with pytest.raises(MalformedNotification) as raised:
        uploads_in(json.dumps([event_grid("a"), {"eventType": "x"}, cloud_event("b")]))
    assert [upload.uri for upload in raised.value.uploads] == ["az://shop/a", "az://shop/b"]


@given(st.text())
def test_no_text_does_worse_than_being_malformed(body: str) -> None:
    with suppress(MalformedNotification):
        uploads_in(body)


def test_envelopes_are_not_opened_for_ever() -> None:
    body = s3(record("a"))
    wrapped = [body, body]
    for _ in range(10):
        wrapped = [sns(wrapped[0]), pubsub_message(wrapped[1])]
    for body in wrapped:
        with pytest.raises(MalformedNotification):
            uploads_in(body)
