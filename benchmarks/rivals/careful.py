"""What a careful engineer writes in an afternoon: threads fetch and decode ahead, batches, parquet in parts."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.rivals.captioners import open_captioner
from benchmarks.rivals.job import AHEAD, AT_ONCE, Job

VERSION = f"boto3 {boto3.__version__}"
THREADS = 16
ROWS_A_FILE = 512

Loaded = tuple[str, Image.Image]


def run(job: Job) -> list[tuple[str, str]]:
    """Caption the bucket into parquet files of some hundred rows; return the rows."""
    captioner = open_captioner(job.model, job.weights, str(job.out))
    client, folder = job.client(), job.out / "captions"
    folder.mkdir()

    def load(key: str) -> Loaded:
        content = client.get_object(Bucket=job.bucket, Key=key)["Body"].read()
        return key, Image.open(io.BytesIO(content)).convert("RGB")

    def loaded(keys: list[str]) -> Iterator[Loaded]:
        with ThreadPoolExecutor(THREADS) as pool:
            pending: deque[Future[Loaded]] = deque()
            for key in keys:
                pending.append(pool.submit(load, key))
                if len(pending) >= AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    rows: list[dict[str, str]] = []
    parts = 0

    def write() -> None:
        nonlocal parts
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{parts:06d}.parquet")
        parts += 1
        rows.clear()

    job.begin()
    images = loaded(job.keys(client))
    while batch := list(islice(images, AT_ONCE)):
        texts = captioner([image for _, image in batch])
        rows.extend({"key": key, "text": text} for (key, _), text in zip(batch, texts, strict=True))
        if len(rows) >= ROWS_A_FILE:
            write()
    if rows:
        write()
    job.end()
    return [(row["key"], row["text"]) for row in pq.read_table(folder).to_pylist()]
