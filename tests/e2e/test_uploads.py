"""What is uploaded comes into the catalog by itself, whatever happens on the way."""

import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from blocks.catalog import Catalog
from blocks.object_store import ObjectStore
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
