"""The bridge: many uploads become few manifests, and no message is gone before its objects are durable."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.upload_manifests import Manifests
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.infra.service.notification_sources.message_source import MessageSource
from sightflow.infra.service.notification_sources.sqs_queue import SqsQueue
from sightflow.infra.service.notification_sources.webhook import WEBHOOK_TOKEN, Webhook
from sightflow.infra.service.storage_events import Bridge, Window
from sightflow.schemas.failure import SightflowError, StoreError
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.spec_reader import read_spec
from tests.e2e.service import Notifying, until
from tests.infra.service.test_notification import minio, record, s3

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def notifying(s3_endpoint: str, request: pytest.FixtureRequest) -> Notifying:
    return Notifying(s3_endpoint, f"n{abs(hash(request.node.nodeid))}")


@pytest.fixture
def spec(notifying: Notifying, write_spec: Any) -> EnrichmentSpec:
    store = {"endpoint_url": notifying.endpoint}
    path = write_spec(f"s3://{notifying.name}/in/*.png", catalog=f"s3://{notifying.name}/catalog", store=store)
    return read_spec(path)


@pytest.fixture
def catalog(spec: EnrichmentSpec) -> Catalog:
    return Catalog(uri=spec.catalog, store=ObjectStore(endpoint_url=spec.store.endpoint_url))


@contextmanager
def bridging(
    spec: EnrichmentSpec, source: MessageSource, seconds: float = 0.5, objects: int = 1000
) -> Iterator[list[str]]:
    """A bridge at work; yields what it says."""
    said: list[str] = []
    stop = threading.Event()
    bridge = threading.Thread(target=Bridge(spec, source, Window(objects, seconds), said.append).run, args=(stop,))
    bridge.start()
    try:
        yield said
    finally:
        stop.set()
        bridge.join(timeout=60)
        assert not bridge.is_alive()


def listed(catalog: Catalog) -> list[list[str]]:
    manifests = Manifests(catalog)
    return [manifests.read(uri) or [] for uri in manifests.waiting()]


def holds(catalog: Catalog, *names: str) -> Callable[[], bool]:
    wanted = {f"{catalog.uri.removesuffix('/catalog')}/{name}" for name in names}
    return lambda: wanted <= {uri for uris in listed(catalog) for uri in uris}


def test_uploads_of_a_window_are_one_manifest_each_object_once(
    spec: EnrichmentSpec, notifying: Notifying, catalog: Catalog
) -> None:
    for name in ("in/ä b+.png", "in/1.png", "in/1.png", "in/notes.txt", "elsewhere/2.png"):
        notifying.put(name, b"x")
    with bridging(spec, SqsQueue(notifying.queue), seconds=1):
        until(holds(catalog, "in/1.png", "in/ä b+.png"), 30, "the manifest")
        until(lambda: notifying.waiting() == 0, 30, "the queue is empty")
    assert [sorted(uris) for uris in listed(catalog)] == [
        [f"s3://{notifying.name}/in/1.png", f"s3://{notifying.name}/in/ä b+.png"]
    ]


def test_what_is_no_notification_is_quarantined_with_its_body_and_costs_the_others_nothing(
    spec: EnrichmentSpec, notifying: Notifying, catalog: Catalog
) -> None:
    notifying.say("{ hello")
    notifying.say('{"Service":"Amazon S3","Event":"s3:TestEvent"}')
    notifying.put("in/1.png", b"x")
    with bridging(spec, SqsQueue(notifying.queue)):
        until(holds(catalog, "in/1.png"), 30, "the manifest")
        until(lambda: notifying.waiting() == 0, 30, "the queue is empty")
    (case,) = catalog.scan("quarantine").collect().iter_rows(named=True)
    assert (case["raw_reply"], case["cause"], case["stage"]) == ("{ hello", "malformed", "notify")
    assert case["uri"].startswith(f"sqs://{notifying.name}/") and case["message"] == "it is not JSON"


def test_many_uploads_close_a_window_before_its_time(
    spec: EnrichmentSpec, notifying: Notifying, catalog: Catalog
) -> None:
    for k in range(60):
        notifying.put(f"in/{k}.png", b"x")
    with bridging(spec, SqsQueue(notifying.queue), seconds=3600, objects=20):
        until(lambda: len(listed(catalog)) >= 2, 30, "two manifests")


def test_a_notification_that_comes_again_is_known(spec: EnrichmentSpec, notifying: Notifying, catalog: Catalog) -> None:
    body = s3(record("in/1.png", sequencer="01")).replace('"shop"', f'"{notifying.name}"')
    with bridging(spec, SqsQueue(notifying.queue)):
        notifying.say(body)
        until(holds(catalog, "in/1.png"), 30, "the manifest")
        notifying.say(body)
        until(lambda: notifying.waiting() == 0, 30, "the queue is empty")
    assert len(listed(catalog)) == 1


def test_a_message_stays_in_the_queue_until_the_store_has_its_manifest(
    spec: EnrichmentSpec, notifying: Notifying, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, broken = Manifests.write, threading.Event()
    broken.set()

    def sometimes(self: Manifests, uris: Any) -> str:
        if broken.is_set():
            raise StoreError("the store is away")
        return write(self, uris)

    monkeypatch.setattr(Manifests, "write", sometimes)
    notifying.put("in/1.png", b"x")
    with bridging(spec, SqsQueue(notifying.queue)) as said:
        until(lambda: any("the store is away" in line for line in said), 30, "it says so")
        assert notifying.waiting() >= 1
        broken.clear()
        until(lambda: notifying.waiting() == 0, 60, "the queue is empty")
    assert listed(catalog) == [[f"s3://{notifying.name}/in/1.png"]]


def test_a_message_of_sqs_is_kept_by_its_receipt_for_the_time_of_its_queue(notifying: Notifying) -> None:
    source = SqsQueue(notifying.queue)
    assert source.keep_every and source.keep_every < 20 / 2  # of the 20 s that the queue hides a message for
    received = source.receive(5)  # of the test message that a bucket begins with
    source.keep(received)
    assert len(received) == 1 and source.receive(0) == []
    source._visibility = 0
    source.keep(received)
    assert source.receive(5) == received


def test_what_an_earlier_bridge_has_left_is_announced(
    spec: EnrichmentSpec, notifying: Notifying, catalog: Catalog
) -> None:
    left = Manifests(catalog).write([f"s3://{notifying.name}/in/1.png"])
    with bridging(spec, SqsQueue(notifying.queue)) as said:
        until(lambda: f"announced {left.rpartition('/')[2]}" in said, 30, "it is announced")


def test_a_queue_that_is_not_there_is_said_at_once(notifying: Notifying) -> None:
    with pytest.raises(SightflowError, match="cannot be read"):
        SqsQueue(notifying.queue + "-not")
    with pytest.raises(SightflowError, match="no address of a queue"):
        SqsQueue("uploads")


def test_a_queue_without_a_region_is_said_at_once(notifying: Notifying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)
    with pytest.raises(SightflowError, match="cannot be read: You must specify a region"):
        SqsQueue(notifying.queue)


def test_minio_s_webhook_is_answered_when_its_upload_is_durable(
    spec: EnrichmentSpec, notifying: Notifying, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEBHOOK_TOKEN, "a-long-secret")
    webhook = Webhook("127.0.0.1", 0)
    body = minio("in/1.png").replace('"shop"', f'"{notifying.name}"').encode()
    with bridging(spec, webhook):
        assert httpx.head(webhook.address).status_code == 200
        assert httpx.post(webhook.address, content=body).status_code == 401
        told = {"Authorization": "Bearer a-long-secret"}
        assert httpx.post(webhook.address, content=body, headers=told, timeout=30).status_code == 200
        assert listed(catalog) == [[f"s3://{notifying.name}/in/1.png"]]
        assert httpx.post(webhook.address, content=b"?", headers=told, timeout=30).status_code == 200
    assert catalog.scan("quarantine").collect()["raw_reply"].to_list() == ["?"]


def test_a_webhook_takes_nothing_huge(spec: EnrichmentSpec) -> None:
    webhook = Webhook("127.0.0.1", 0)
    answer = httpx.post(webhook.address, content=b"x" * (2**20 + 1))
    assert answer.status_code == 413


def test_a_manifest_in_a_folder_appears_whole_and_goes_once_seen_to(tmp_path: Path) -> None:
    manifests = Manifests(Catalog(uri=f"file://{tmp_path}/catalog"))
    assert manifests.waiting() == []
    first = manifests.write(["file:///a\n\udcff b", "file:///ä"])
    time.sleep(0.01)
    assert manifests.waiting() == [first] and manifests.read(first) == ["file:///a\n\udcff b", "file:///ä"]
    manifests.close(first)
    manifests.close(first)
    assert manifests.waiting() == [] and manifests.read(first) is None


def test_a_file_that_is_no_manifest_says_what_one_is(tmp_path: Path) -> None:
    folder = tmp_path / "catalog" / "uploads"
    folder.mkdir(parents=True)
    for content in ("", "[]", json.dumps({"uri": []})):
        (folder / "x.json").write_text(content)
        with pytest.raises(StoreError, match="is no manifest"):
            Manifests(Catalog(uri=f"file://{tmp_path}/catalog")).read(f"file://{folder}/x.json")
