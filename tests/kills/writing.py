"""What a writer does that is killed: a run's commits into a catalog, from its plan to its end, without a model.

Each generation wants other rows of a catalog: some new, some changed, some gone, some that fail. A writer compares them
with what is there, as `plan` does, and commits what is left as runs do, so that it may be started again at any time.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.data_files import KEY
from sightflow.blocks.catalog.maintenance import maintain
from sightflow.blocks.catalog.run_writer import RunWriter
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.policy import Upkeep
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from sightflow.schemas.tables.quarantine import QUARANTINE_SCHEMA
from sightflow.schemas.tables.runs import RUNS_SCHEMA

KEYS, FAILING, SHARED = 120, range(200, 212), 3
"""Keys of a generation; those that fail in every second one; every so many a key is every writer's."""


@dataclass(frozen=True)
class Job:
    """One of so many `writers` at once. `generation`: from 0 on; `attempt`: how often it was started before."""

    uri: str
    store: Mapping[str, Any]  # of an `ObjectStore`
    generation: int
    seed: int
    writer: int = 0
    writers: int = 1
    attempt: int = 0

    @property
    def catalog(self) -> Catalog:
        return Catalog(uri=self.uri, store=ObjectStore(**self.store))


def uri_of(key: int) -> str:
    return f"s3://b/it's {key:04d}.jpg"


def wanted(seed: int, generation: int) -> tuple[dict[str, str], set[str]]:
    """The rows after a generation, as fingerprints by URI, and what is in quarantine then."""
    rows: dict[int, str] = {}
    for turn in range(generation + 1):
        chance = random.Random(seed * 1000 + turn)
        present = chance.sample(range(KEYS * 3 // 2), KEYS)
        failing = {key: rows[key] for key in FAILING if key in rows}
        rows = {key: rows.get(key, f"{turn}") if chance.random() < 0.6 else f"{turn}" for key in present}
        rows |= dict.fromkeys(FAILING, f"{turn}") if turn % 2 else failing
    return {uri_of(key): said for key, said in rows.items()}, set() if generation % 2 else set(map(uri_of, FAILING))


def write(job: Job) -> None:
    """See that the catalog holds what the generation wants, as far as it is this writer's."""
    catalog, chance = job.catalog, random.Random(f"{job.seed} {job.writer} {job.attempt}")
    rows, failing = wanted(job.seed, job.generation)
    table, version = catalog.scan_with_version("enrichments")
    held = dict(table.select("uri", "fingerprint").collect().iter_rows())
    quarantined = set(catalog.scan("quarantine").select("uri").collect()["uri"])
    settled = [uri for uri in quarantined if uri not in failing]
    mine = [uri for uri in rows if rows[uri] != held.get(uri) and is_of(uri, job)]
    mine += [uri for uri in failing if uri not in quarantined and is_of(uri, job)]
    chance.shuffle(mine)
    writer = RunWriter(catalog, version)
    for start in range(0, len(mine), 12):
        group = mine[start : start + 12]
        done = [uri for uri in group if uri not in failing]
        own = [uri in held for uri in done if is_own(uri, job)]
        begin = f"{job.generation} {job.writer} {job.attempt} {start}"
        tags = {known: f"{begin} {known} {own.count(known)}" for known in (True, False)}
        frame = pl.DataFrame(
            [
                {"uri": uri, "enrichment": "caption", "capability": "image_captioning", "fingerprint": rows[uri]}
                | {"text": tags[uri in held] if is_own(uri, job) else None}
                for uri in done
            ],
            schema=CATALOG_SCHEMA,
        )
        failed = pl.DataFrame(
            [{"uri": uri, "enrichment": "caption", "cause": "decode"} for uri in group if uri in failing],
            schema=QUARANTINE_SCHEMA,
        )
        writer.commit(frame, failed, frame.filter(pl.col("uri").is_in(list(held))).select(KEY))
        if chance.random() < 0.3:
            maintain(catalog, Upkeep(compact_files=4))
    gone = [(uri, "caption", said) for uri, said in held.items() if uri not in rows]
    catalog.prune(pl.DataFrame(gone, schema=dict.fromkeys([*KEY, "fingerprint"], pl.String()), orient="row"))
    catalog.resolve(
        pl.DataFrame([(uri, "caption") for uri in settled], schema=dict.fromkeys(KEY, pl.String()), orient="row")
    )
    catalog.record_run(pl.DataFrame([{"run_id": str(job)}], schema=RUNS_SCHEMA))


def is_of(uri: str, job: Job) -> bool:
    return int(uri[-8:-4]) % SHARED == 0 or is_own(uri, job)


def is_own(uri: str, job: Job) -> bool:
    """Whether no other writer writes it."""
    number = int(uri[-8:-4])
    return number % SHARED != 0 and number // SHARED % job.writers == job.writer


def check_read(catalog: Catalog, generation: int) -> None:
    """What a reader finds at any time: no key twice, and of a commit all rows or none."""
    found = catalog.scan("enrichments").select("uri", "enrichment", "text").collect()
    assert found.select(KEY).is_unique().all(), "a key stands twice"
    for tag, count in found["text"].drop_nulls().value_counts().iter_rows():
        if tag.startswith(f"{generation} "):
            assert count == int(tag.rpartition(" ")[2]), f"half a commit: {count} rows of {tag}"
    failures = catalog.scan("quarantine").select(KEY).collect()
    assert failures.is_unique().all(), "a case stands twice"


def run(job: Job) -> None:
    """`write` in a process that is to be killed, with nothing on the screen."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    write(job)
