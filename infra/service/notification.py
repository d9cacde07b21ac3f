"""Storage notifications: what S3, EventBridge, MinIO, Google and Azure say when objects appear, in one form.

Formats: S3 event message structure 2.x (also inside an SNS envelope), EventBridge's `aws.s3` events, and MinIO's
webhook, whose records are those of S3. Cloud Storage's notifications as Pub/Sub has them in JSON (`PubsubMessage`): by
their attributes, or by the object in their data (`JSON_API_V1`) where no attribute says more. Azure's
`Microsoft.Storage` events in Event Grid's schema and as CloudEvents 1.0, one or a list of them.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from sightflow.schemas.object_uri import ObjectUri, Scheme

_MOST_ENVELOPES = 3
_AZURE_SUBJECT = re.compile(r"/blobServices/default/containers/([^/]*)/blobs/(.*)", re.DOTALL)
_APPEARS_IN_AZURE = frozenset({"Microsoft.Storage.BlobCreated", "Microsoft.Storage.BlobRenamed"})
_GOOGLE_CLOUD_EVENT = "google.cloud.storage.object.v1.finalized"


@dataclass(frozen=True)
class Upload:
    """An object that was created or replaced.

    `uri`: `s3://bucket/key`, `gs://bucket/key` or `az://container/key`, the key as it is.
    `event`: the same whenever one notification is delivered twice, and different for another upload; empty if the store
    gives no such thing.
    """

    uri: str
    event: str = ""


class MalformedNotification(ValueError):
    """A message that no store sends, or a record in one; the text says what is missing.

    `uploads`: what the other records of the message tell of.
    """

    def __init__(self, reason: str, uploads: Sequence[Upload] = ()) -> None:
        super().__init__(reason)
        self.uploads = tuple(uploads)


def uploads_in(body: str) -> list[Upload]:
    """The uploads that a message tells of; none for a test message, or one of removals and the like.

    Raises MalformedNotification.
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise MalformedNotification("it is not JSON") from None
    return list(_uploads(message, _MOST_ENVELOPES))


def _uploads(message: Any, envelopes: int) -> Iterator[Upload]:
    match message:
        case {"Type": "Notification", "Message": str(inner)} if envelopes:  # SNS between the bucket and the queue
            yield from _uploads(_opened(inner, "the message in the SNS envelope"), envelopes - 1)
        case {"Event": "s3:TestEvent"}:
            return
        case {
            "detail-type": str(what),
            "detail": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)} as facts},
        }:
            # EventBridge gives the key as it is, where S3 encodes it as in a form.
            if what == "Object Created":
                yield _upload(bucket, key, facts)
        case {"Records": list(records)}:
            yield from _each(records, _recorded)
        case {"attributes": {"eventType": str(what), "bucketId": str(bucket), "objectId": str(key)} as told}:
            if what == "OBJECT_FINALIZE":
                yield _upload(bucket, key, {"sequencer": told.get("objectGeneration")}, scheme=Scheme.GOOGLE)
        case {"attributes": {"ce-type": str(what)}} if what != _GOOGLE_CLOUD_EVENT:
            return  # of Eventarc, which tells of removals and metadata too
        case {"data": str(data), "attributes": dict()} if envelopes:
            yield from _uploads(_opened(_from_base64(data), "the data of the Pub/Sub message"), envelopes - 1)
        case {"kind": "storage#object", "bucket": str(bucket), "name": str(key)}:
            if not message.get("timeDeleted"):
                yield _upload(bucket, key, {"sequencer": message.get("generation")}, scheme=Scheme.GOOGLE)
        case {"eventType": str(), "subject": str()} | {"specversion": str(), "type": str(), "subject": str()}:
            yield from _of_event_grid(message)
        case list(events):
            yield from _each(events, _of_event_grid)
        case _:
            raise MalformedNotification("it is of no known form: no Records, no detail of an object, and no event")


def _opened(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedNotification(f"{what} is not JSON") from None


def _from_base64(data: str) -> str:
    try:
        return b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        raise MalformedNotification("the data of the Pub/Sub message is no text in base64") from None


def _each(records: list[Any], read: Callable[[Any], Iterator[Upload]]) -> list[Upload]:
    """What all records tell of. One that is none costs the others nothing: it is raised with what they tell."""
    told, problem = list[Upload](), ""
    for record in records:
        try:
            told += read(record)
        except MalformedNotification as error:
            problem = str(error)
    if problem:
        raise MalformedNotification(problem, told)
    return told


def _of_event_grid(event: Any) -> Iterator[Upload]:
    """An event of Event Grid in either schema. Its subject holds the key as it is, its `data.url` encodes it."""
    if not isinstance(event, dict):
        raise MalformedNotification("a record is no event")
    what, subject, data = event.get("eventType") or event.get("type"), event.get("subject"), event.get("data")
    if not isinstance(what, str) or not isinstance(subject, str):
        raise MalformedNotification("an event names no type or subject")
    # A file of a Data Lake is created empty first; when it is written, there is another event.
    if what not in _APPEARS_IN_AZURE or (isinstance(data, dict) and data.get("api") == "CreateFile"):
        return
    if not (place := _AZURE_SUBJECT.fullmatch(subject)):
        raise MalformedNotification("the subject of an event names no container and blob")
    yield _upload(place[1], place[2], {"sequencer": event.get("id")}, scheme=Scheme.AZURE)


def _recorded(record: Any) -> Iterator[Upload]:
    match record:
        case {"eventName": str(name), "s3": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)} as facts}}:
            if name.removeprefix("s3:").startswith("ObjectCreated:"):
                yield _upload(bucket, unquote_plus(key), facts, str(record.get("eventTime", "")))
        case _:
            raise MalformedNotification("a record names no event, bucket or key")


def _upload(bucket: str, key: str, facts: dict[str, Any], time: str = "", scheme: Scheme = Scheme.S3) -> Upload:
    if not bucket or not key:
        raise MalformedNotification("the bucket or the key is empty")
    sequencer, etag = facts.get("sequencer"), facts.get("eTag") or facts.get("etag")
    event = str(sequencer) if sequencer else f"{etag} {time}" if etag and time else ""
    return Upload(str(ObjectUri(scheme, bucket, key)), event)
