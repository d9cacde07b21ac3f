"""Writers that are killed at random instants, one or several at once, end in the rows of an undisturbed one.

make kills TIMES=100
make kills TIMES=100 CATALOG=s3://bucket/folder   # any address that can be written, with the keys of the environment
"""

import multiprocessing
import os
import random
import threading
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from uuid import uuid4

import pytest

from sightflow.blocks.catalog.catalog import Catalog
from tests.clouds import azure_cloud
from tests.kills.writing import Job, check_read, run, wanted, write
from tests.loopback.stores.azurite import KEY

pytestmark = pytest.mark.e2e
KILLS = int(os.environ.get("SIGHTFLOW_KILLS", "3"))
SEED = int(os.environ.get("SIGHTFLOW_KILLS_SEED", "1"))
GIVEN = os.environ.get("SIGHTFLOW_KILLS_CATALOG")


PLACES = ["given"] if GIVEN else ["local", "s3", "azurite"]
ALL = [(place, writers) for place in PLACES for writers in (1, 2, 3)]
CASES = ALL if "SIGHTFLOW_KILLS" in os.environ else [("local", 3)]  # an emulator takes a minute more


@pytest.fixture
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Job:
    if request.param == "given":
        return Job(f"{GIVEN}/{uuid4().hex}", {"endpoint_url": os.environ.get("SIGHTFLOW_KILLS_ENDPOINT")}, 0, SEED)
    if request.param == "s3":
        bucket = request.getfixturevalue("bucket")
        return Job(f"s3://{bucket.name}/catalog", {"endpoint_url": bucket.endpoint}, 0, SEED)
    if request.param == "azurite":
        cloud = azure_cloud(request.getfixturevalue("azurite"))
        return Job(cloud.uri("catalog"), {**cloud.settings, "azure_account_key": KEY}, 0, SEED)
    return Job(f"file://{tmp_path}/catalog", {}, 0, SEED)


def content(catalog: Catalog) -> tuple[dict[str, str], set[str]]:
    rows = dict(catalog.scan("enrichments").select("uri", "fingerprint").collect().iter_rows())
    return rows, set(catalog.scan("quarantine").select("uri").collect()["uri"])


def start(job: Job) -> BaseProcess:
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["sightflow.blocks.catalog.run_writer", "sightflow.blocks.catalog.maintenance"])
    process = forks.Process(target=run, args=(job,))
    process.start()
    return process


class Reader(threading.Thread):
    """Reads over and over again, and keeps the first thing that is wrong."""

    def __init__(self, job: Job) -> None:
        super().__init__(daemon=True)
        self.catalog, self.generation = job.catalog, job.generation
        self.wrong: BaseException | None = None
        self.reads, self.done = 0, threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            try:
                check_read(self.catalog, self.generation)
            except BaseException as error:
                self.wrong = error
                return
            self.reads += 1

    def end(self) -> None:
        self.done.set()
        self.join()
        if self.wrong:
            raise self.wrong


def seconds_of(job: Job) -> float:
    """How long a generation takes a process that nobody disturbs."""
    began = time.monotonic()
    process = start(job)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began


def disturbed(job: Job, chance: random.Random, kills: int, seconds: float) -> int:
    """One generation, whose writers are killed so often and started again; return how many were there to be killed."""
    reader = Reader(job)
    reader.start()
    jobs = [replace(job, writer=writer) for writer in range(job.writers)]
    processes = [start(each) for each in jobs]
    done = 0
    for _ in range(kills):
        time.sleep(chance.uniform(0, seconds))
        writer = chance.randrange(job.writers)
        if processes[writer].exitcode is None:
            processes[writer].kill()
            done += 1
        processes[writer].join()
        jobs[writer] = replace(jobs[writer], attempt=jobs[writer].attempt + 1)
        processes[writer] = start(jobs[writer])
    for process in processes:
        process.join()
    reader.end()
    assert [process.exitcode for process in processes] == [0] * job.writers
    assert reader.reads
    return done


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("job", "writers"), CASES, indirect=["job"])
def test_killed_at_random_instants_writers_end_in_the_rows_of_an_undisturbed_one(job: Job, writers: int) -> None:
    write(job)
    assert content(job.catalog) == wanted(job.seed, 0)
    job = replace(job, generation=1)
    seconds = seconds_of(job)
    chance, killed = random.Random(SEED), 0
    while killed < KILLS / 3:
        job = replace(job, generation=job.generation + 1, writers=writers)
        killed += disturbed(job, chance, 3, seconds)
        assert content(job.catalog) == wanted(job.seed, job.generation)
    print(f"{job.uri}: {killed} kills of {writers} writers at once, {job.generation} generations")
