"""Ray Data: `read_images` feeds one actor that holds the model, in batches."""

from __future__ import annotations

import os
import tempfile
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pyarrow.parquet as pq
import ray
from PIL import Image
from pyarrow.fs import S3FileSystem
from ray.data import ActorPoolStrategy, DataContext

from benchmarks.rivals.captioners import open_captioner
from benchmarks.rivals.job import AT_ONCE, Job

VERSION = f"ray {ray.__version__}"


class Captions:
    """The actor: one, for there is one device."""

    def __init__(self, model: str, weights: str, out: str) -> None:
        self.captioner = open_captioner(model, weights, out)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        images = [Image.fromarray(pixels) for pixels in batch["image"]]
        return {"path": batch["path"], "text": np.array(self.captioner(images), dtype=object)}


def run(job: Job) -> list[tuple[str, str]]:
    """Caption the bucket into a folder of parquet files; return their rows."""
    store = S3FileSystem(
        endpoint_override=urlparse(job.endpoint).netloc,
        scheme="http",
        region="us-east-1",
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    )
    # The stand-in is to Ray what a GPU is; the demo model takes a core.
    device: dict[str, int] = {"num_gpus": 1} if job.model == "device" else {"num_cpus": 1}
    folder = job.out / "captions"
    DataContext.get_current().enable_progress_bars = False
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as place:  # short: it holds sockets
        ray.init(num_gpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=place)
        job.begin()
        images = ray.data.read_images(f"{job.bucket}/{job.prefix}", filesystem=store, mode="RGB", include_paths=True)
        captions = images.map_batches(
            Captions,
            batch_size=AT_ONCE,
            compute=ActorPoolStrategy(size=1),
            fn_constructor_args=(job.model, job.weights, str(job.out)),
            **device,
        )
        captions.write_parquet(str(folder))
        job.end()
        ray.shutdown()
    return [(job.key(row["path"]), row["text"]) for row in pq.read_table(folder).to_pylist()]
