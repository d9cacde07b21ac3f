"""Sightflow: the flow `enrich` as `sightflow run` runs it, on a Prefect server of its own, into a catalog.

SIGHTFLOW_WORKERS: that many processes of Dask in the place of threads, each with a device of its own.
SIGHTFLOW_THREADS: of the CPU for a batch of the demo's model; unset, half of the cores, for two batches at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["DASK_DISTRIBUTED__WORKER__PRELOAD"] = __name__  # Dask reads it when it is imported

from benchmarks.parts.device import Device
from benchmarks.rivals.job import AT_ONCE, Job
from sightflow.blocks.models import registry as systems
from sightflow.blocks.models.systems.florence2 import Florence2
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.vision import VisionReply, VisionRequest

VERSION = version("sightflow")
_WORKERS = os.environ.get("SIGHTFLOW_WORKERS")


class NotesTheFirst(Florence2):
    """The demo's Florence-2, which leaves word of its first caption."""

    _block_type_slug = "sightflow-benchmark-first"

    def run(self, requests: Sequence[VisionRequest]) -> list[VisionReply]:
        replies = super().run(requests)
        with suppress(FileExistsError), open(os.environ["SIGHTFLOW_FIRST"], "x") as note:
            note.write(repr(time.monotonic()))
        return replies


class DeviceNotesTheFirst(NotesTheFirst, Device):
    """The stand-in, likewise."""

    _block_type_slug = "sightflow-benchmark-first-device"


def take_its_place(model: str) -> None:
    """Let the measured model stand where Florence-2 does."""
    name = "DeviceNotesTheFirst" if model == "device" else "NotesTheFirst"
    systems.SYSTEMS["florence-2"] = f"benchmarks.rivals.with_sightflow:{name}"


def run(job: Job) -> list[tuple[str, str]]:
    """Bring a catalog in the folder `out` up to date with the bucket; return its rows."""
    from sightflow.flows.enrich import enrich
    from sightflow.infra.prefect_server import prefect_api
    from sightflow.tasks.open import open_catalog
    from sightflow.tasks.route import resolve_enrichments
    from sightflow.tasks.runtime.loaded_models import load_model
    from sightflow.tasks.runtime.preload import preload

    os.environ |= {"SIGHTFLOW_FIRST": str(job.out / "first"), "SIGHTFLOW_MODEL": job.model}
    take_its_place(job.model)
    # As docs/models.md advises for a small model on the CPU: two batches at once.
    threads = int(os.environ.get("SIGHTFLOW_THREADS") or max((os.cpu_count() or 2) // 2, 1))
    real = {"id": job.weights, "batch_size": AT_ONCE, "threads": threads}
    settings: dict[str, Any] = {} if job.model == "device" else real
    runner: dict[str, Any] = {"kind": "dask", "settings": {"workers": int(_WORKERS)}} if _WORKERS else {}
    spec = EnrichmentSpec.model_validate(
        {
            "source": f"s3://{job.bucket}/{job.prefix}**",
            "catalog": f"file://{job.out}/catalog",
            "store": {"endpoint_url": job.endpoint},
            "models": {"florence-2": settings},
            "enrichments": [{"capability": "image captioning", "name": "caption"}],
            "runner": runner,
        }
    )
    resolve_enrichments(spec)  # as the command line does, before it starts a server
    preload(spec)
    load_model("florence-2", spec.models["florence-2"])
    Path(job.out, f"loaded-{os.getpid()}").write_text(repr((time.monotonic(), time.monotonic())))
    with prefect_api() as server:
        if server is not None:
            server.wait()
        job.begin()
        done = enrich(spec)
        job.end()
    print({stage: time.model_dump() for stage, time in done.stages.items()}, done.bottleneck)
    rows = open_catalog(spec).scan("enrichments").select("uri", "text").collect()
    return [(job.key(uri), text) for uri, text in rows.iter_rows()]


def dask_setup(worker: Any) -> None:
    """What Dask calls in each worker that is told to preload this module."""
    take_its_place(os.environ["SIGHTFLOW_MODEL"])
