"""A bucket of drawings, a hundred different ones over and over."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor

# Of the store on loopback, which takes any; also for the processes that are started from here.
os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="not-a-secret", AWS_DEFAULT_REGION="us-east-1")

import boto3
from botocore.config import Config

from sightflow.infra.demo.scenes import draw_scene

DRAWINGS = 100


def fill(endpoint: str, bucket: str, objects: int, side: int = 640, form: str = "JPEG") -> list[str]:
    """Make the bucket and put so many pictures of `side` x `side` pixels below `in/`; return the keys.

    Each is read once: the first read of an object costs the store more than the others, whoever's it would be.
    """
    client = boto3.client("s3", endpoint_url=endpoint, config=Config(max_pool_connections=32))
    client.create_bucket(Bucket=bucket)
    contents = []
    for seed in range(min(DRAWINGS, objects)):
        buffer = io.BytesIO()
        draw_scene(seed).image.resize((side, side)).save(buffer, form, quality=90)
        contents.append(buffer.getvalue())
    keys = [f"in/{k:06d}.{form.lower()}" for k in range(objects)]

    def put(k: int) -> None:
        client.put_object(Bucket=bucket, Key=keys[k], Body=contents[k % len(contents)])

    def read(key: str) -> None:
        client.get_object(Bucket=bucket, Key=key)["Body"].read()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(objects)))
        list(pool.map(read, keys))
    return keys
