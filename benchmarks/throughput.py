"""How much of the time the model works: a run from bucket to catalog, over inference in memory and over plain loops.

    python -m benchmarks.throughput [--objects 2000] [--model device|demo]

The store is an S3 endpoint in a process of its own that answers 20 ms late; its CPU is stated, for on a real network it
would be elsewhere. `device` holds its device 20 ms an image without CPU; `demo` is the trained demo model, on the same
cores.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.update(
    AWS_ACCESS_KEY_ID="testing",
    AWS_SECRET_ACCESS_KEY="not-a-secret",
    AWS_DEFAULT_REGION="us-east-1",
    PREFECT_LOGGING_LEVEL="CRITICAL",
)

import boto3
import polars as pl
from botocore.config import Config

from benchmarks.slow_store import slow_store
from blocks import systems
from blocks.vision_model import VisionModel
from infra.demo.bucket import MODEL_FOLDER
from infra.demo.scenes import draw_scene
from infra.prefect_server import prefect_api
from schemas.capability import Capability
from schemas.enrichment import Enrichment
from schemas.media import DecodedImage
from schemas.spec import EnrichmentSpec, Limits
from schemas.vision import VisionRequest
from tasks.decode import decode

BUCKET = "bench"
CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING, name="caption")


def fill(endpoint: str, objects: int) -> list[str]:
    """Put JPEGs of 640 x 640 pixels into the bucket, a hundred different ones over and over; return the keys."""
    client = boto3.client("s3", endpoint_url=endpoint, config=Config(max_pool_connections=32))
    client.create_bucket(Bucket=BUCKET)
    contents = []
    for seed in range(100):
        buffer = io.BytesIO()
        draw_scene(seed).image.resize((640, 640)).save(buffer, "JPEG", quality=90)
        contents.append(buffer.getvalue())
    keys = [f"in/{k:06d}.jpg" for k in range(objects)]
    with ThreadPoolExecutor(16) as pool:
        put = lambda k: client.put_object(Bucket=BUCKET, Key=keys[k], Body=contents[k % 100])  # noqa: E731
        list(pool.map(put, range(objects)))
    return keys


def request(key: str, content: bytes) -> VisionRequest:
    media = decode(content, Limits())
    assert isinstance(media, DecodedImage)
    return VisionRequest(key, CAPTION, media)


def in_memory(model: VisionModel, endpoint: str, keys: list[str]) -> float:
    """Objects a second of the model alone, over pictures that are decoded already, in its own batches."""
    client = boto3.client("s3", endpoint_url=endpoint)
    ready = [request(key, client.get_object(Bucket=BUCKET, Key=key)["Body"].read()) for key in keys[:100]]
    size, done = model.objects_at_once, 0
    began = time.perf_counter()
    while done < len(keys):
        batch = [ready[(done + k) % len(ready)] for k in range(min(size, len(keys) - done))]
        model.run(batch)
        done += len(batch)
    return done / (time.perf_counter() - began)


def naive(model: VisionModel, endpoint: str, keys: list[str], folder: Path) -> float:
    """Fetch, decode, ask, one after the other; the results written at the end."""
    client = boto3.client("s3", endpoint_url=endpoint)
    began = time.perf_counter()
    rows = []
    for key in keys:
        content = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        (reply,) = model.run([request(key, content)])
        rows.append({"uri": key, "text": reply.outcome.text})  # type: ignore[union-attr]
    pl.DataFrame(rows).write_parquet(folder / "naive.parquet")
    return len(keys) / (time.perf_counter() - began)


def careful(model: VisionModel, endpoint: str, keys: list[str], folder: Path) -> float:
    """A pool of threads fetches and decodes ahead, the model is asked in batches, results are appended as parquet."""
    client = boto3.client("s3", endpoint_url=endpoint, config=Config(max_pool_connections=32))
    began = time.perf_counter()

    def fetched(key: str) -> VisionRequest:
        return request(key, client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def ahead() -> Iterator[VisionRequest]:
        with ThreadPoolExecutor(16) as pool:
            pending: list[Any] = []
            for key in keys:
                pending.append(pool.submit(fetched, key))
                if len(pending) >= 64:
                    yield pending.pop(0).result()
            for future in pending:
                yield future.result()

    rows: list[dict[str, str]] = []
    part = 0
    batch: list[VisionRequest] = []

    def ask() -> None:
        rows.extend({"uri": r.uri, "text": r.outcome.text} for r in model.run(batch))  # type: ignore[union-attr]
        batch.clear()

    for each in ahead():
        batch.append(each)
        if len(batch) == model.objects_at_once:
            ask()
        if len(rows) >= 500:
            pl.DataFrame(rows).write_parquet(folder / f"careful-{part}.parquet")
            rows, part = [], part + 1
    if batch:
        ask()
    pl.DataFrame(rows, schema={"uri": pl.String(), "text": pl.String()}).write_parquet(
        folder / f"careful-{part}.parquet"
    )
    return len(keys) / (time.perf_counter() - began)


def sightflow(endpoint: str, keys: list[str], models: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """A whole run: list, plan, fetch, ask, validate, publish and report, on a Prefect server that is there."""
    from flows.enrich import enrich

    spec = EnrichmentSpec.model_validate(
        {
            "source": f"s3://{BUCKET}/in/**",
            "catalog": f"s3://{BUCKET}/catalog",
            "store": {"endpoint_url": endpoint},
            "models": models,
            "enrichments": [{"capability": "image captioning", "name": "caption"}],
        }
    )
    began = time.perf_counter()
    done = enrich(spec)
    took = time.perf_counter() - began
    assert done.published == len(keys), done.causes
    return len(keys) / took, done.seconds


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--objects", type=int, default=2000)
    asked.add_argument("--model", choices=["device", "demo"], default="device")
    given = asked.parse_args()
    models: dict[str, Any] = {}
    if given.model == "device":
        systems.SYSTEMS["florence-2"] = "benchmarks.device:Device"
    else:
        models = {"florence-2": {"id": str(MODEL_FOLDER)}}
    model = systems.open_model("florence-2", models.get("florence-2"))
    model.prepare()
    with slow_store() as (endpoint, store), tempfile.TemporaryDirectory() as place, prefect_api() as server:
        if server:
            server.wait()
        keys = fill(endpoint, given.objects)
        base = in_memory(model, endpoint, keys)
        print(f"in memory: {base:.1f} objects/s", flush=True)
        ways: dict[str, Callable[[], float]] = {
            "naive loop": lambda: naive(model, endpoint, keys[: len(keys) // 4], Path(place)),
            "careful loop": lambda: careful(model, endpoint, keys, Path(place)),
        }
        for name, way in ways.items():
            rate = way()
            print(f"{name}: {rate:.1f} objects/s, {rate / base:.2f} of in memory", flush=True)
        before = sum(store.cpu_times()[:2])
        began = time.perf_counter()
        rate, seconds = sightflow(endpoint, keys, models)
        spent = (sum(store.cpu_times()[:2]) - before) / (time.perf_counter() - began)
        print(f"sightflow: {rate:.1f} objects/s, {rate / base:.2f} of in memory; the store used {spent:.0%} of a core")
        print(seconds)


if __name__ == "__main__":
    main()
