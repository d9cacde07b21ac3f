"""Storage notifications: what S3, EventBridge and MinIO say when objects appear, in one form.

Formats: S3 event message structure 2.x (also inside an SNS envelope), EventBridge's `aws.s3` events, and MinIO's
webhook, whose records are those of S3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from sightflow.schemas.object_uri import ObjectUri, Scheme

_MOST_ENVELOPES = 3


@dataclass(frozen=True)
class Upload:
    """An object that was created or replaced.

    `uri`: `s3://bucket/key`, the key as it is. `event`: the same whenever one notification is delivered twice, and
    different for another upload; empty if the store gives no such thing.
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
            try:
                opened = json.loads(inner)
            except (ValueError, RecursionError):
                raise MalformedNotification("the message in the SNS envelope is not JSON") from None
            yield from _uploads(opened, envelopes - 1)
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
            told, problem = list[Upload](), ""
            for record in records:
                try:
                    told += _recorded(record)
                except MalformedNotification as error:
                    problem = str(error)
            if problem:
                raise MalformedNotification(problem, told)
            yield from told
        case _:
            raise MalformedNotification("it is of no known form: no Records, and no detail of an object")


def _recorded(record: Any) -> Iterator[Upload]:
    match record:
        case {"eventName": str(name), "s3": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)} as facts}}:
            if name.removeprefix("s3:").startswith("ObjectCreated:"):
                yield _upload(bucket, unquote_plus(key), facts, str(record.get("eventTime", "")))
        case _:
            raise MalformedNotification("a record names no event, bucket or key")


def _upload(bucket: str, key: str, facts: dict[str, Any], time: str = "") -> Upload:
    if not bucket or not key:
        raise MalformedNotification("the bucket or the key is empty")
    sequencer, etag = facts.get("sequencer"), facts.get("eTag") or facts.get("etag")
    event = str(sequencer) if sequencer else f"{etag} {time}" if etag and time else ""
    return Upload(str(ObjectUri(Scheme.S3, bucket, key)), event)
