"""The bridge on a Pub/Sub subscription: nothing is acknowledged before it is durable, and nothing lost meanwhile."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sightflow.blocks import extras
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.upload_manifests import Manifests
from sightflow.infra.service.notification_sources.choice import queue_at
from sightflow.infra.service.notification_sources.message_source import SourceAway
from sightflow.infra.service.notification_sources.pubsub_subscription import PubSubSubscription
from sightflow.schemas.failure import MissingExtra, SightflowError, SpecError, StoreError
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.spec_reader import read_spec
from tests.e2e.service import until
from tests.infra.service.test_notification import pubsub as pubsub_json
from tests.infra.service.test_storage_events import bridging, listed
from tests.loopback.pubsub_api import SUBSCRIPTION, PubSubOnLoopback


@pytest.fixture
def pubsub(monkeypatch: pytest.MonkeyPatch) -> Iterator[PubSubOnLoopback]:
    with PubSubOnLoopback() as server:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server.host)
        yield server


@pytest.fixture
def spec(write_spec: Any, tmp_path: Path) -> EnrichmentSpec:
    return read_spec(write_spec("gs://shop/in/*.png", catalog=f"{tmp_path}/catalog"))


@pytest.fixture
def catalog(spec: EnrichmentSpec) -> Catalog:
    return Catalog(uri=spec.catalog)


def told(key: str) -> dict[str, str]:
    """The attributes of a notification of Cloud Storage."""
    return dict(json.loads(pubsub_json(key))["attributes"])


@pytest.mark.usefixtures("prefect_server")
def test_a_message_is_acknowledged_when_its_manifest_is_in_the_store_and_kept_until_then(
    spec: EnrichmentSpec, catalog: Catalog, pubsub: PubSubOnLoopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, broken = Manifests.write, threading.Event()
    broken.set()

    def sometimes(self: Manifests, uris: Any) -> str:
        if broken.is_set():
            raise StoreError("the store is away")
        return write(self, uris)

    monkeypatch.setattr(Manifests, "write", sometimes)
    source = queue_at(SUBSCRIPTION)
    assert isinstance(source, PubSubSubscription) and source.keep_every and source.keep_every < pubsub.ack_deadline / 2
    source.keep_every = 0.05
    first = pubsub.publish(**told("in/1.png"))
    with bridging(spec, source) as said:
        until(lambda: any("the store is away" in line for line in said), 30, "it says so")
        pubsub.advance(0.7 * pubsub.ack_deadline)
        until(lambda: pubsub.lease_of(first) > 0.9 * pubsub.ack_deadline, 30, "it is kept for longer")
        assert pubsub.messages[first].deliveries == 1
        broken.clear()
        until(lambda: not pubsub.messages, 30, "it is acknowledged")
    assert listed(catalog) == [["gs://shop/in/1.png"]]


@pytest.mark.usefixtures("prefect_server")
def test_what_is_no_notification_costs_the_others_nothing_and_what_comes_again_is_known(
    spec: EnrichmentSpec, catalog: Catalog, pubsub: PubSubOnLoopback
) -> None:
    pubsub.publish(b"{ hello", origin="nobody")
    pubsub.publish(b"\xff\xfe")
    for _ in range(2):
        pubsub.publish(**told("in/ä +.png"))
    pubsub.publish(b"", eventType="OBJECT_DELETE", bucketId="shop", objectId="in/1.png")
    with bridging(spec, queue_at(SUBSCRIPTION)):
        until(lambda: not pubsub.messages, 30, "all are acknowledged")
        pubsub.publish(**told("in/ä +.png"))
        until(lambda: not pubsub.messages, 30, "this one too")
    assert listed(catalog) == [["gs://shop/in/ä +.png"]]
    cases = catalog.scan("quarantine").collect().sort("message")
    assert cases["message"].to_list() == [
        "the data of the Pub/Sub message is no text in base64",
        "the data of the Pub/Sub message is not JSON",
    ]
    assert json.loads(cases["raw_reply"][1])["attributes"] == {"origin": "nobody"}
    assert cases["uri"].to_list() == ["pubsub://uploads/2", "pubsub://uploads/1"]


def test_a_message_that_nobody_made_durable_comes_again(pubsub: PubSubOnLoopback) -> None:
    source = queue_at(SUBSCRIPTION)
    pubsub.publish(**told("in/1.png"))
    (once,) = source.receive(5)
    assert source.receive(0) == []
    pubsub.advance(pubsub.ack_deadline + 1)
    source.delete([once])  # too late
    (again,) = source.receive(5)
    assert again == once and again.receipt != once.receipt
    source.delete([again])
    assert not pubsub.messages


def test_thousands_are_acknowledged_within_google_s_limit_of_a_request(pubsub: PubSubOnLoopback) -> None:
    for k in range(3100):
        pubsub.publish(b"", k=str(k))
    source, received = queue_at(SUBSCRIPTION), []
    while len(received) < 3100:
        received += source.receive(5)
    source.keep(received)
    source.delete(received)
    assert not pubsub.messages


def test_a_subscription_that_is_not_there_or_not_for_pulling_is_said_at_once(pubsub: PubSubOnLoopback) -> None:
    with pytest.raises(SightflowError, match="uploads-not cannot be read: NotFound"):
        queue_at(f"{SUBSCRIPTION}-not")
    with pytest.raises(SpecError, match="is no subscription"):
        PubSubSubscription("projects/shop/topics/uploads")
    pubsub.push_endpoint = "https://example.com/push"
    with pytest.raises(SightflowError, match="whose delivery type is pull"):
        queue_at(SUBSCRIPTION)


def test_who_may_only_pull_pulls(pubsub: PubSubOnLoopback) -> None:
    pubsub.refuse["GetSubscription"] = grpc.StatusCode.PERMISSION_DENIED
    pubsub.publish(**told("in/1.png"))
    assert len(queue_at(SUBSCRIPTION).receive(5)) == 1


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED])
def test_a_subscription_that_does_not_answer_is_away_and_no_key_is_told(
    pubsub: PubSubOnLoopback, status: grpc.StatusCode
) -> None:
    source = queue_at(SUBSCRIPTION)
    pubsub.publish(**told("in/1.png"))
    messages = source.receive(5)
    pubsub.refuse.update(dict.fromkeys(("Pull", "Acknowledge", "ModifyAckDeadline"), status))
    for call in (lambda: source.receive(1), lambda: source.keep(messages), lambda: source.delete(messages)):
        with pytest.raises(SourceAway, match="does not answer") as raised:
            call()
        assert "ya29" not in str(raised.value) and raised.value.__cause__ is None


def test_without_the_extra_its_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda package: False)
    with pytest.raises(MissingExtra, match=r"sightflow\[google\]"):
        queue_at(SUBSCRIPTION)
