"""Daft: its own listing, download and image decoding, and a class with a batch method that holds the model."""

from __future__ import annotations

import os

import daft
from daft import DataType, Series, col
from daft.functions import decode_image, download
from daft.io import IOConfig, S3Config
from PIL import Image

from benchmarks.rivals.captioners import open_captioner
from benchmarks.rivals.job import AT_ONCE, Job

VERSION = f"daft {daft.__version__}"


@daft.cls(max_concurrency=1)
class Captions:
    """One instance, for there is one device."""

    def __init__(self, model: str, weights: str, out: str) -> None:
        self.captioner = open_captioner(model, weights, out)

    @daft.method.batch(return_dtype=DataType.string(), batch_size=AT_ONCE)
    def of(self, images: Series) -> list[str]:
        return self.captioner([Image.fromarray(pixels) for pixels in images.to_pylist()])


def run(job: Job) -> list[tuple[str, str]]:
    """Caption the bucket into a folder of parquet files; return their rows."""
    store = IOConfig(
        s3=S3Config(
            endpoint_url=job.endpoint,
            region_name="us-east-1",
            key_id=os.environ["AWS_ACCESS_KEY_ID"],
            access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            use_ssl=False,
            max_connections=32,
        )
    )
    folder = str(job.out / "captions")
    open_captioner(job.model, job.weights, str(job.out))
    captions = Captions(job.model, job.weights, str(job.out))
    job.begin()
    frame = daft.from_glob_path(f"s3://{job.bucket}/{job.prefix}**", io_config=store)
    frame = frame.with_column("image", decode_image(download(col("path"), io_config=store), mode="RGB"))
    frame = frame.select("path", captions.of(col("image")).alias("text"))
    frame.write_parquet(folder)
    job.end()
    return [(job.key(row["path"]), row["text"]) for row in daft.read_parquet(folder).to_pylist()]
