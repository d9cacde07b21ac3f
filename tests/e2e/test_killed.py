"""A run that is killed at any instant, or that has a twin, ends in the catalog of an undisturbed run."""

import json
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.flows.enrich import enrich
from sightflow.schemas.spec_reader import read_spec
from tests.e2e.test_incremental import flat
from tests.stand_in_cli import forked

pytestmark = pytest.mark.usefixtures("prefect_server")
KILLS = 12
OBJECTS = 60
ASKED = [
    {"capability": "image captioning", "name": "caption"},
    {"capability": "object detection", "name": "objects", "labels": ["dark"]},
]
QUICK = {"shard_size": 4, "shards_ahead": 2, "commit_rows": 8, "commit_seconds": 0.2, "max_quarantine_ratio": 1.0}


def fill(folder: Path, count: int) -> Path:
    folder.mkdir()
    for k in range(count):
        (folder / f"{k:03d}.png").write_bytes(flat((k, 255 - k, 7)))
    (folder / "broken.png").write_bytes(b"")
    return folder


def start(spec: Path, log: Path, seconds: float, **more: str) -> BaseProcess:
    return forked("run", str(spec), STAND_IN_SECONDS=str(seconds), STAND_IN_LOG=str(log), **more)


def content(catalog: Catalog) -> pl.DataFrame:
    """All that is in a catalog but when and by which run it was computed."""
    frame = catalog.scan("enrichments").collect().drop("run_id", "inferred_at")
    assert frame.select("uri", "enrichment").is_unique().all()
    return frame.sort("uri", "enrichment")


def published(catalog: Catalog) -> set[tuple[str, str]]:
    return set(catalog.scan("enrichments").select("uri", "enrichment").collect().iter_rows())


def asked(log: Path) -> list[tuple[str, str]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [tuple(json.loads(line)) for line in lines if line.endswith("]")]  # type: ignore[misc]


@pytest.mark.timeout(600)
def test_killed_at_a_dozen_instants_it_ends_as_if_undisturbed(
    tmp_path: Path, write_spec: Any, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = fill(tmp_path / "media", OBJECTS)
    spec = write_spec(f"{media}/*", enrichments=ASKED, policy=QUICK)
    catalog = Catalog(uri=read_spec(spec).catalog)
    chance = random.Random(20)
    kills = 0
    for attempt in range(KILLS):
        log = tmp_path / f"asked-{attempt}"
        before = published(catalog)
        process = start(spec, log, 0.01)
        # Killed while it starts, or between the first question and some later one: wherever the run happens to be.
        wanted = chance.choice([0, 1, 1, 2, 4, 8, 12])
        patience = time.monotonic() + 60
        while process.is_alive() and len(asked(log)) < wanted and time.monotonic() < patience:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.25))
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        assert not before & set(asked(log)), "what was published was computed again"
        assert before <= published(catalog)
        if len(published(catalog)) == 2 * OBJECTS:
            for k, file in enumerate(sorted(media.glob("*[0-9].png"))[:20]):  # nothing left to disturb: new ones
                file.unlink()
                (media / f"again-{attempt}-{k:03d}.png").write_bytes(flat((attempt, 3, k)))
    assert kills >= KILLS // 2, f"only {kills} of {KILLS} runs were still there to be killed"
    stand_in.reset()
    done = published(catalog)
    enrich(read_spec(spec))
    assert not done & set(stand_in.asked)
    undisturbed = write_spec(f"{media}/*", enrichments=ASKED, policy=QUICK, catalog=str(tmp_path / "undisturbed"))
    enrich(read_spec(undisturbed))
    there = content(Catalog(uri=read_spec(undisturbed).catalog))
    here = content(catalog).join(there.select("uri"), on="uri", how="semi")  # without what was replaced on the way
    assert here.equals(there)
    cases = [each.scan("quarantine").collect() for each in (catalog, Catalog(uri=read_spec(undisturbed).catalog))]
    assert [set(frame.select("uri", "enrichment", "cause").iter_rows()) for frame in cases] == [
        {(f"file://{media}/broken.png", name, "unreadable") for name in ("caption", "objects")}
    ] * 2


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_two_runs_at_once_end_in_the_rows_of_one(
    where: str, tmp_path: Path, bucket: Any, write_spec: Any, stand_in: Any
) -> None:
    media = fill(tmp_path / "media", 24)
    store: dict[str, Any] = {"endpoint_url": bucket.endpoint} if where == "bucket" else {}
    uri = f"s3://{bucket.name}/catalog" if where == "bucket" else str(tmp_path / "both")
    spec = write_spec(f"{media}/*", enrichments=ASKED, policy=QUICK, catalog=uri, store=store)
    (tmp_path / "meeting").mkdir()  # neither answers before both have planned, so that each plans everything
    logs = [tmp_path / f"log{k}" for k in range(2)]
    runs = [start(spec, log, 0.005, STAND_IN_MEETS=str(tmp_path / "meeting")) for log in logs]
    for run in runs:
        run.join(240)
    assert [run.exitcode for run in runs] == [0, 0]
    assert [len(asked(log)) for log in logs] == [48, 48]
    catalog = Catalog(uri=read_spec(spec).catalog, store=ObjectStore(**store))
    one = write_spec(f"{media}/*", enrichments=ASKED, policy=QUICK, catalog=str(tmp_path / "one"))
    enrich(read_spec(one))
    assert content(catalog).equals(content(Catalog(uri=read_spec(one).catalog)))
    assert catalog.scan("quarantine").collect().height == 2
