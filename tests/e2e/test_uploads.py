"""What is uploaded comes into the catalog by itself, whatever happens on the way."""

import random
import signal
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from blocks.catalog import Catalog
from blocks.object_store import ObjectStore
from infra.prefect_server import PrefectServer
from tests.e2e.service import Notifying, service, until
from tests.e2e.test_incremental import flat

CAPTION = [{"capability": "image captioning", "name": "caption"}]


@pytest.fixture
def notifying(s3_endpoint: str, request: pytest.FixtureRequest) -> Notifying:
    return Notifying(s3_endpoint, f"n{abs(hash(request.node.nodeid))}")


def written(write_spec: Any, bucket: Notifying, **sections: Any) -> tuple[Path, Catalog]:
    uri = f"s3://{bucket.name}/catalog"
    store = {"endpoint_url": bucket.endpoint}
    spec = write_spec(f"s3://{bucket.name}/in/**", catalog=uri, store=store, enrichments=CAPTION, **sections)
    return spec, Catalog(uri=uri, store=ObjectStore(endpoint_url=bucket.endpoint))


def held(catalog: Catalog) -> set[str]:
    return set(catalog.scan("enrichments").select("uri").collect()["uri"])


def test_an_upload_is_in_the_catalog_within_seconds(
    tmp_path: Path, write_spec: Any, notifying: Notifying, prefect_server: Any
) -> None:
    spec, catalog = written(write_spec, notifying)
    with service(tmp_path, prefect_server) as parts:
        parts.run("deploy", str(spec), "--on-upload", "--name", "quick")
        parts.start("worker", "worker", "--poll", "1")
        parts.start("bridge", "bridge", str(spec), "--queue", notifying.queue, "--batch-seconds", "1")
        until(lambda: "taking runs" in parts.log("worker") and "bridging" in parts.log("bridge"), 60, "they start")
        waits = []
        for k in range(10):
            began = time.monotonic()
            uri = notifying.put(f"in/a +ü#{k}.png", flat((k, 0, 0)))
            until(lambda: uri in held(catalog), 60, uri)
            waits.append(time.monotonic() - began)
        print(sorted(round(wait, 1) for wait in waits), statistics.median(waits))
        until(lambda: all(run["state_type"] == "COMPLETED" for run in parts.runs("quick-uploads")), 20, "all complete")
        until(lambda: notifying.waiting() == 0, 20, "the queue is empty")


class Relay(threading.Thread):
    """Moves messages from one queue to another as a bad network would: some twice, some never, none in order."""

    def __init__(self, bucket: Notifying, twice: float, lost: float) -> None:
        super().__init__(daemon=True)
        self._bucket, self._twice, self._lost = bucket, twice, lost
        self._chance = random.Random(5)
        self.target = bucket.sqs.create_queue(QueueName=f"{bucket.name}-relayed")["QueueUrl"]
        self.lost = self.doubled = 0
        self.halted = threading.Event()

    def run(self) -> None:
        sqs = self._bucket.sqs
        while not self.halted.is_set():
            messages = sqs.receive_message(QueueUrl=self._bucket.queue, MaxNumberOfMessages=10).get("Messages", [])
            if not messages:
                self.halted.wait(0.1)
                continue
            bodies = []
            for message in messages:
                if "in%2F" in message["Body"] and self._chance.random() < self._lost:
                    self.lost += 1
                    continue
                again = self._chance.random() < self._twice
                self.doubled += again
                bodies += [message["Body"]] * (1 + again)
            self._chance.shuffle(bodies)
            for first in range(0, len(bodies), 10):
                entries = [{"Id": str(k), "MessageBody": body} for k, body in enumerate(bodies[first : first + 10])]
                sqs.send_message_batch(QueueUrl=self.target, Entries=entries)
            receipts = [{"Id": str(k), "ReceiptHandle": m["ReceiptHandle"]} for k, m in enumerate(messages)]
            sqs.delete_message_batch(QueueUrl=self._bucket.queue, Entries=receipts)


@pytest.mark.timeout(600)
def test_a_burst_with_everything_killed_in_its_middle_ends_with_one_row_an_object(
    tmp_path: Path, write_spec: Any, notifying: Notifying
) -> None:
    spec, catalog = written(write_spec, notifying)
    relay = Relay(notifying, twice=0.1, lost=0.05)
    relay.start()
    log = tmp_path / "asked.log"
    server = PrefectServer(tmp_path / "prefect")
    server.start()
    server.wait()
    with service(tmp_path, server, STAND_IN_LOG=str(log), STAND_IN_SECONDS="0.002") as parts:
        parts.run("deploy", str(spec), "--on-upload", "--name", "burst")
        bridge = [
            "bridge",
            str(spec),
            "--queue",
            relay.target,
            "--batch-seconds",
            "2",
            "--batch-objects",
            "150",
            "--again",
            "10",
        ]
        worker = ["worker", "--poll", "1"]
        parts.start("worker", *worker)
        parts.start("bridge", *bridge)
        uris = set()
        for k in range(2000):
            uris.add(notifying.put(f"in/{k:04d}.png", flat((k % 256, k // 256, 9))))
            if k == 500:
                parts.kill("bridge")
                parts.start("bridge", *bridge)
            if k == 1000:
                until(lambda: len(parts.runs("burst-uploads")) > 0, 60, "a run")
                parts.kill("worker")
                parts.start("worker", *worker)
            if k == 1500:
                server.kill()
                server.start()
        server.wait()
        until(lambda: len(held(catalog)) >= 2000 - relay.lost - 10, 200, "what was told is there")
        until(
            lambda: all(r["state_type"] in ("COMPLETED", "CRASHED") for r in parts.runs("burst-uploads")), 100, "ended"
        )
        runs = parts.runs("burst-uploads")
        print(relay.lost, relay.doubled, len(runs), len(held(catalog)), [r["run_count"] for r in runs])
        parts.run("run", str(spec))
        parts.kill("worker", signal.SIGTERM)
        parts.kill("bridge", signal.SIGTERM)
    relay.halted.set()
    server.stop()
    rows = catalog.scan("enrichments").select("uri", "enrichment").collect()
    assert rows.height == 2000 and set(rows["uri"]) == uris
    asked = log.read_text().splitlines()
    print(len(asked))
    assert len(runs) <= 40
