"""The bridge on a storage queue that Event Grid delivers to, in Azurite: nothing is lost, and no key told."""

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from azure.core.credentials import AzureNamedKeyCredential
from azure.storage.queue import QueueClient

from sightflow.blocks import extras
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.upload_manifests import Manifests
from sightflow.infra.service.notification_sources.azure_queue import AzureQueue
from sightflow.infra.service.notification_sources.choice import queue_at
from sightflow.infra.service.notification_sources.message_source import SourceAway
from sightflow.infra.service.notification_sources.sqs_queue import SqsQueue
from sightflow.schemas.failure import MissingExtra, SightflowError, SpecError, StoreError
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.spec_reader import read_spec
from tests.e2e.service import Notifying, until
from tests.infra.service.test_notification import cloud_event, event_grid
from tests.infra.service.test_storage_events import bridging, listed
from tests.loopback.stores.azurite import ACCOUNT, KEY, Azurite


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    with Azurite("queue") as emulator:
        yield emulator


class Filled:
    """A queue into which events are put as Event Grid puts them."""

    def __init__(self, azurite: Azurite) -> None:
        name = f"uploads-{uuid4().hex[:8]}"
        self.url = f"{azurite.endpoint}/{name}"
        self.client = QueueClient(azurite.endpoint, name, AzureNamedKeyCredential(ACCOUNT, KEY))
        self.client.create_queue()

    def say(self, *bodies: Any) -> None:
        for body in bodies:
            text = body if isinstance(body, str) else json.dumps(body)
            self.client.send_message(b64encode(text.encode()).decode())

    def waiting(self) -> int:
        return int(self.client.get_queue_properties().approximate_message_count or 0)


@pytest.fixture
def filled(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> Filled:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    return Filled(azurite)


@pytest.fixture
def spec(write_spec: Any, tmp_path: Path) -> EnrichmentSpec:
    return read_spec(write_spec("az://shop/in/*.png", catalog=f"{tmp_path}/catalog"))


@pytest.fixture
def catalog(spec: EnrichmentSpec) -> Catalog:
    return Catalog(uri=spec.catalog)


@pytest.mark.usefixtures("prefect_server")
def test_uploads_in_both_schemas_are_one_manifest_and_what_is_none_costs_them_nothing(
    spec: EnrichmentSpec, catalog: Catalog, filled: Filled
) -> None:
    filled.say(event_grid("in/ä +%20.png"), cloud_event("in/2.png") | {"id": "2"}, event_grid("out/3.png"))
    filled.say("{ hello", event_grid("in/1.png", "BlobDeleted"))
    filled.client.send_message(json.dumps(event_grid("in/plain.png") | {"id": "3"}))  # as others may put it
    filled.client.send_message("no base64 at all")
    with bridging(spec, queue_at(filled.url), seconds=1):
        until(lambda: filled.waiting() == 0, 30, "the queue is empty")
    assert [sorted(uris) for uris in listed(catalog)] == [
        ["az://shop/in/2.png", "az://shop/in/plain.png", "az://shop/in/ä +%20.png"]
    ]
    cases = catalog.scan("quarantine").collect()
    assert set(cases["raw_reply"]) == {"{ hello", "no base64 at all"}
    assert all(uri.startswith(f"azure-queue://{filled.url.rpartition('/')[2]}/") for uri in cases["uri"])


@pytest.mark.usefixtures("prefect_server")
def test_a_message_is_deleted_when_its_manifest_is_in_the_store_however_often_it_was_kept(
    spec: EnrichmentSpec, catalog: Catalog, filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, broken, kept = Manifests.write, threading.Event(), list[Any]()
    broken.set()

    def sometimes(self: Manifests, uris: Any) -> str:
        if broken.is_set():
            raise StoreError("the store is away")
        return write(self, uris)

    class Noting(AzureQueue):
        keep_every = 0.05

        def keep(self, messages: Any) -> None:
            super().keep(messages)
            kept.append(len(messages))

    monkeypatch.setattr(Manifests, "write", sometimes)
    filled.say(event_grid("in/1.png"), event_grid("in/2.png") | {"id": "2"})
    with bridging(spec, Noting(filled.url)) as said:
        until(lambda: any("the store is away" in line for line in said), 30, "it says so")
        until(lambda: kept[-2:] == [2, 2], 30, "both are kept, again and again")
        assert filled.waiting() == 2
        broken.clear()
        until(lambda: filled.waiting() == 0, 30, "the queue is empty")
    assert listed(catalog) == [["az://shop/in/1.png", "az://shop/in/2.png"]]


def test_a_message_that_somebody_else_has_received_since_is_theirs(filled: Filled) -> None:
    filled.say(event_grid("in/1.png"))
    source = queue_at(filled.url)
    (message,) = source.receive(5)
    assert source.receive(0) == []
    filled.client.update_message(message.receipt, source._receipts[message.receipt], visibility_timeout=0)  # type: ignore[attr-defined]
    (theirs,) = filled.client.receive_messages(max_messages=1)
    source.keep([message])
    source.delete([message])
    assert filled.waiting() == 1
    filled.client.delete_message(theirs)
    source.delete([message])


def test_more_than_a_request_holds_are_kept_and_deleted(filled: Filled) -> None:
    filled.say(*[event_grid(f"in/{k}.png") for k in range(40)])
    source, received = queue_at(filled.url), []
    while len(received) < 40:
        received += source.receive(5)
    source.keep(received)
    source.delete(received)
    assert filled.waiting() == 0


def test_a_queue_that_is_not_there_or_not_ours_is_said_at_once_without_its_key(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SightflowError, match="cannot be read: ResourceNotFoundError"):
        queue_at(filled.url + "-not")
    for url in (f"{filled.url}?sv=2020&sig=abcdefghijkl", filled.url.replace("://", "://me:secret@")):
        with pytest.raises(SpecError, match="holds a password or a key") as raised:
            AzureQueue(url)
        assert "abcdefghijkl" not in str(raised.value) and "secret" not in str(raised.value)
    with pytest.raises(SpecError, match="is no address of a queue"):
        AzureQueue("https://account.blob.core.windows.net/container")
    wrong = b64encode(b"not the key of this account at all").decode()
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", wrong)
    with pytest.raises(SightflowError, match="cannot be read: ClientAuthenticationError") as raised:
        queue_at(filled.url)
    assert wrong not in str(raised.value) and raised.value.__cause__ is None


def test_a_queue_that_goes_away_is_away(filled: Filled) -> None:
    filled.say(event_grid("in/1.png"))
    source = queue_at(filled.url)
    messages = source.receive(5)
    filled.client.delete_queue()
    for call in (lambda: source.receive(0), lambda: source.keep(messages), lambda: source.delete(messages)):
        with pytest.raises(SourceAway, match="does not answer"):
            call()


@pytest.mark.parametrize(
    "url",
    ["https://shop.queue.core.windows.net/uploads", "https://shop.z01.queue.storage.azure.net/uploads",
     "https://shop.queue.core.usgovcloudapi.net/uploads"],
)  # fmt: skip
def test_an_azure_address_needs_its_extra_and_no_other_is_one(
    url: str, monkeypatch: pytest.MonkeyPatch, s3_endpoint: str
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda package: False)
    with pytest.raises(MissingExtra, match=r"sightflow\[azure\]"):
        queue_at(url)
    assert isinstance(queue_at(Notifying(s3_endpoint, f"q{uuid4().hex[:8]}").queue), SqsQueue)
