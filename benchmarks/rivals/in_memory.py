"""The model alone: a hundred pictures that are fetched and decoded before the clock starts, asked about in batches.

What no pipeline can pass, but by asking in better batches; its rows are those of the keys in turn.
"""

from __future__ import annotations

import io

import boto3
from PIL import Image

from benchmarks.rivals.captioners import open_captioner
from benchmarks.rivals.job import AT_ONCE, Job

VERSION = f"boto3 {boto3.__version__}"
IMAGES = 100


def run(job: Job) -> list[tuple[str, str]]:
    """Caption as many pictures as there are keys; return the rows, which are kept nowhere."""
    captioner = open_captioner(job.model, job.weights, str(job.out))
    client = job.client()
    keys = job.keys(client)
    contents = [client.get_object(Bucket=job.bucket, Key=key)["Body"].read() for key in keys[:IMAGES]]
    images = [Image.open(io.BytesIO(content)).convert("RGB") for content in contents]
    job.begin()
    rows: list[tuple[str, str]] = []
    for k in range(0, len(keys), AT_ONCE):
        batch = keys[k : k + AT_ONCE]
        texts = captioner([images[(k + place) % len(images)] for place in range(len(batch))])
        rows += zip(batch, texts, strict=True)
    job.end()
    return rows
