"""Pixeltable: a table with an image column, and a computed column by a function that takes batches."""

from __future__ import annotations

import os

import pixeltable as pxt
from PIL import Image
from pixeltable.func import Batch

from benchmarks.rivals.captioners import open_captioner
from benchmarks.rivals.job import AT_ONCE, Job

VERSION = f"pixeltable {pxt.__version__}"


@pxt.udf(batch_size=AT_ONCE)
def caption(image: Batch[Image.Image], model: str, weights: str, out: str) -> Batch[str]:
    """The model's captions of a batch."""
    return open_captioner(model, weights, out)([each.convert("RGB") for each in image])


def run(job: Job) -> list[tuple[str, str]]:
    """Caption the bucket into a table of Pixeltable's own store; return its rows."""
    os.environ["AWS_ENDPOINT_URL"] = job.endpoint
    open_captioner(job.model, job.weights, str(job.out))
    client = job.client()
    table = pxt.create_table("captions", {"key": pxt.Required[pxt.String], "image": pxt.Image})
    table.add_computed_column(
        text=caption(table.image, model=job.model, weights=job.weights, out=str(job.out))  # type: ignore[arg-type]
    )
    job.begin()
    table.insert([{"key": key, "image": f"s3://{job.bucket}/{key}"} for key in job.keys(client)])
    job.end()
    return [(row["key"], row["text"]) for row in table.select(table.key, table.text).collect()]
