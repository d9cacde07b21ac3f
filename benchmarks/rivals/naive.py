"""Fetch, decode, ask, one after the other; the rows are written at the end."""

from __future__ import annotations

import io

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.rivals.captioners import open_captioner
from benchmarks.rivals.job import Job

VERSION = f"boto3 {boto3.__version__}"


def run(job: Job) -> list[tuple[str, str]]:
    """Caption the bucket into one parquet file; return its rows."""
    captioner = open_captioner(job.model, job.weights, str(job.out))
    client, file = job.client(), job.out / "captions.parquet"
    job.begin()
    rows = []
    for key in job.keys(client):
        content = client.get_object(Bucket=job.bucket, Key=key)["Body"].read()
        image = Image.open(io.BytesIO(content)).convert("RGB")
        rows.append({"key": key, "text": captioner([image])[0]})
    pq.write_table(pa.Table.from_pylist(rows), file)
    job.end()
    return [(row["key"], row["text"]) for row in pq.read_table(file).to_pylist()]
