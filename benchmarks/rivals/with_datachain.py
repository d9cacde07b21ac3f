"""DataChain: the bucket read as images, prefetched, mapped by a function that is given the model by `setup`."""

from __future__ import annotations

import datachain as dc
from datachain import ImageFile

from benchmarks.rivals.captioners import Captioner, open_captioner
from benchmarks.rivals.job import AHEAD, Job

VERSION = f"datachain {dc.__version__}"


def caption(file: ImageFile, captioner: Captioner) -> str:
    """One caption: `map` gives a function one row a call, and DataChain has no setting for more."""
    return captioner([file.read().convert("RGB")])[0]


def run(job: Job) -> list[tuple[str, str]]:
    """Caption the bucket into a dataset of DataChain's own store; return its rows."""
    model, weights, out = job.model, job.weights, str(job.out)
    open_captioner(model, weights, out)
    job.begin()
    chain = dc.read_storage(
        f"s3://{job.bucket}/{job.prefix}",
        type="image",
        anon=False,
        client_config={"aws_endpoint_url": job.endpoint},
    )
    # Not `parallel`: with one device, more processes start later and are no faster.
    chain = chain.settings(prefetch=AHEAD).setup(captioner=lambda: open_captioner(model, weights, out))
    chain.map(caption, params=["file", "captioner"], output={"text": str}).save("captions")
    job.end()
    return [(path, text) for path, text in dc.read_dataset("captions").to_iter("file.path", "text")]
