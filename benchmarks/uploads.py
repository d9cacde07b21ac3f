"""From upload to catalog, in processes of their own: seconds for one upload, and a burst with everything killed once.

    python -m benchmarks.uploads [--uploads 10] [--burst 2000]

Prefect's server, moto's S3 and SQS, the bridge and a worker run on this machine; the model is a stand-in that answers
at once, so what is measured is the way and not the model.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml

os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="not-a-secret", AWS_DEFAULT_REGION="us-east-1")

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.infra.demo.bucket import MODEL_FOLDER, s3_on_loopback
from sightflow.infra.server_process import PrefectServer
from tests.e2e.burst import burst, held
from tests.e2e.service import Notifying, service, until
from tests.e2e.test_incremental import flat

SETTINGS = {
    "default settings": ([], []),
    "quick settings": (["--poll", "1"], ["--batch-seconds", "1"]),
}


def written(folder: Path, bucket: Notifying) -> tuple[Path, Catalog]:
    """A spec of captions of what is uploaded below `in/`, and its catalog."""
    uri = f"s3://{bucket.name}/catalog"
    spec = {
        "source": f"s3://{bucket.name}/in/**",
        "catalog": uri,
        "enrichments": [{"capability": "image captioning", "name": "caption"}],
        "models": {"florence-2": {"id": str(MODEL_FOLDER)}},
        "store": {"endpoint_url": bucket.endpoint},
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path, Catalog(uri=uri, store=ObjectStore(endpoint_url=bucket.endpoint))


def latencies(folder: Path, endpoint: str, uploads: int, server: PrefectServer, name: str) -> list[float]:
    """Seconds from the upload to the row, one upload after the other."""
    worker, bridge = SETTINGS[name]
    pool = name.replace(" ", "-")
    bucket = Notifying(endpoint, pool)
    spec, catalog = written(folder, bucket)
    with service(folder, server) as parts:
        parts.run("deploy", str(spec), "--on-upload", "--name", pool, "--pool", pool)
        parts.start("worker", "worker", "--pool", pool, *worker)
        parts.start("bridge", "bridge", str(spec), "--queue", bucket.queue, *bridge)
        until(lambda: "taking runs" in parts.log("worker") and "bridging" in parts.log("bridge"), 60, "they start")
        waits = []
        for k in range(uploads):
            began = time.monotonic()
            uri = bucket.put(f"in/{k}.png", flat((k, 0, 0)))
            until(lambda: held(catalog, {uri}), 120, uri)
            waits.append(time.monotonic() - began)
            time.sleep(k % 5)  # so that uploads meet the polls at any phase
    return waits


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--uploads", type=int, default=10)
    asked.add_argument("--burst", type=int, default=2000)
    given = asked.parse_args()
    with s3_on_loopback() as endpoint, tempfile.TemporaryDirectory() as place:
        for name in SETTINGS if given.uploads else ():
            folder = Path(place) / name.replace(" ", "-")
            folder.mkdir()
            with PrefectServer(folder / "prefect") as server:
                server.wait()
                waits = latencies(folder, endpoint, given.uploads, server, name)
            print(f"{name}: median {statistics.median(waits):.1f} s of {len(waits)}, longest {max(waits):.1f} s")
        if given.burst:
            folder = Path(place) / "burst"
            folder.mkdir()
            bucket = Notifying(endpoint, "burst")
            spec, catalog = written(folder, bucket)
            began = time.monotonic()
            done = burst(folder, bucket, spec, catalog, given.burst)
            again = sum(count - 1 for count in Counter(done.asked).values())
            print(
                f"burst of {given.burst:,} uploads, {done.doubled} notifications twice, {done.lost} lost, bridge, "
                f"worker and server killed: {len(done.rows):,} rows of {len(set(done.rows)):,} objects, "
                f"{done.runs} runs, {again} questions asked again, {time.monotonic() - began:.0f} s"
            )


if __name__ == "__main__":
    main()
