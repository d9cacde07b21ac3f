"""A burst of uploads over a bad network, with bridge, worker and Prefect server each killed in its middle."""

import random
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.infra.server_process import PrefectServer
from sightflow.infra.service.notification import uploads_in
from tests.e2e.service import Notifying, depth, service, until
from tests.e2e.test_incremental import flat
from tests.postgres import own_database


class Relay(threading.Thread):
    """Moves messages from one queue to another as a bad network would: some twice, some never, none in order."""

    def __init__(self, bucket: Notifying, twice: float, lost: float) -> None:
        super().__init__(daemon=True)
        self._bucket, self._twice, self._lost = bucket, twice, lost
        self._rng = random.Random(5)
        self.target = bucket.sqs.create_queue(QueueName=f"{bucket.name}-relayed")["QueueUrl"]
        self.told = set[str]()  # uploads of which a notification passed; one may have several
        self.doubled = 0
        self.halted = threading.Event()

    def waiting(self) -> int:
        return depth(self._bucket.sqs, self.target)

    def run(self) -> None:
        sqs = self._bucket.sqs
        while not self.halted.is_set():
            messages = sqs.receive_message(QueueUrl=self._bucket.queue, MaxNumberOfMessages=10).get("Messages", [])
            if not messages:
                self.halted.wait(0.1)
                continue
            bodies = []
            for message in messages:
                # The catalog lies in the same bucket, and its files are told of too.
                uploaded = {upload.uri for upload in uploads_in(message["Body"]) if "/in/" in upload.uri}
                if uploaded and self._rng.random() < self._lost:
                    continue
                self.told |= uploaded
                again = self._rng.random() < self._twice
                self.doubled += again
                bodies += [message["Body"]] * (1 + again)
            self._rng.shuffle(bodies)
            for first in range(0, len(bodies), 10):
                entries = [{"Id": str(k), "MessageBody": body} for k, body in enumerate(bodies[first : first + 10])]
                sqs.send_message_batch(QueueUrl=self.target, Entries=entries)
            receipts = [{"Id": str(k), "ReceiptHandle": m["ReceiptHandle"]} for k, m in enumerate(messages)]
            sqs.delete_message_batch(QueueUrl=self._bucket.queue, Entries=receipts)


@dataclass(frozen=True)
class Burst:
    """What came of it.

    `asked`: the questions to the model; `runs`: what uploads started, without the reconcile; `lost`: uploads that no
    notification told of, `doubled`: notifications that came twice.
    """

    uris: set[str]
    rows: list[str]
    asked: list[str]
    runs: int
    lost: int
    doubled: int


def burst(folder: Path, bucket: Notifying, spec: Path, catalog: Catalog, uploads: int) -> Burst:
    """Upload, kill, wait, and reconcile once; 10 % of the notifications come twice and 5 % never."""
    relay = Relay(bucket, twice=0.1, lost=0.05)
    relay.start()
    log = folder / "asked.log"
    server = PrefectServer(folder / "prefect", database=own_database())
    server.start()
    server.wait()
    bridge = ["bridge", str(spec), "--queue", relay.target, "--batch-seconds", "3", "--again", "15"]
    worker = ["worker", "--poll", "1", "--heartbeat", "2"]
    with service(folder, server, STAND_IN_LOG=str(log), STAND_IN_SECONDS="0.002") as parts:
        parts.run("deploy", str(spec), "--on-upload", "--name", "burst")
        parts.start("worker", *worker)
        parts.start("bridge", *bridge)
        until(lambda: "taking runs" in parts.log("worker") and "bridging" in parts.log("bridge"), 60, "they start")
        uris = set()
        for k in range(uploads):
            uris.add(bucket.put(f"in/{k:04d}.png", flat((k % 256, k // 256, 9))))
            if k == uploads // 4:
                parts.kill("bridge")
                parts.start("bridge", *bridge)
            if k == uploads // 2:
                until(lambda: any(run["state_type"] == "RUNNING" for run in parts.runs()), 60, "a run is under way")
                parts.kill("worker")
                parts.start("worker", *worker)
            if k == 3 * uploads // 4:
                server.kill()
                server.start()
        server.wait()
        until(lambda: bucket.waiting() == 0 and relay.waiting() == 0, 120, "the queues are empty")
        until(lambda: held(catalog, relay.told) == len(relay.told), 300, "what was told is there")
        until(lambda: all(run["end_time"] for run in parts.runs("burst-uploads")), 120, "the runs end")
        runs = len(parts.runs("burst-uploads"))
        parts.run("run", str(spec))
        assert parts.kill("worker", signal.SIGTERM) == 0 and parts.kill("bridge", signal.SIGTERM) == 0
    relay.halted.set()
    server.stop()
    rows = catalog.scan("enrichments").select("uri").collect()["uri"].to_list()
    return Burst(uris, rows, log.read_text().splitlines(), runs, len(uris - relay.told), relay.doubled)


def held(catalog: Catalog, uris: set[str]) -> int:
    return len(uris & set(catalog.scan("enrichments").select("uri").collect()["uri"]))
