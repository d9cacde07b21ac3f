"""Runs that are killed at random instants never pass a budget, use nearly all of it, and pay for nothing twice.

make kills TIMES=100      # this part: 5,000 requests of 20 workers in 3 processes, which are killed 10 times
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.money.balance import Balance, Spent
from sightflow.blocks.money.journal import journal_folder
from sightflow.blocks.money.ledger import Ledger
from sightflow.blocks.money.recovery import recover
from sightflow.schemas.spec_reader import read_spec
from tests.e2e.test_ugly_inputs import encoded
from tests.loopback.billing.metered_openai import MeteredOpenAI, pixel
from tests.loopback.hosted_systems import KEY
from tests.loopback.server import Received, Say, Status

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]
FULL = "SIGHTFLOW_KILLS" in os.environ
REQUESTS, PROCESSES, KILLS, SECONDS = (5000, 3, 10, 0.2) if FULL else (80, 2, 1, 0.05)
WORKERS = 7  # of each process
SEED = int(os.environ.get("SIGHTFLOW_KILLS_SEED", "1"))


class Meter(MeteredOpenAI):
    """Declines every tenth request, charges the others, and takes its time to answer."""

    def __init__(self) -> None:
        super().__init__(self.react)
        self.cap = 10**21
        self.passed = False
        self.declined = 0
        self.under_way = [0] * PROCESSES  # by process, about

    def react(self, received: Received) -> Say | Status:
        if received.number % 10 == 9:
            self.declined += 1
            return Status(random.choice((429, 500, 503)), headers={"retry-after-ms": "20"})
        red, green, _ = pixel(received)
        asking = (red + 256 * green) % PROCESSES
        self.under_way[asking] += 1
        time.sleep(SECONDS)
        self.under_way[asking] -= 1
        return Say(f"picture {'x' * (pixel(received)[0] % 40)}")

    def answer(self, *arguments: Any) -> Any:
        answer = super().answer(*arguments)
        self.passed = self.passed or self.total > self.cap
        return answer


def start(spec: Path, prefix: str) -> BaseProcess:
    """`sightflow run SPEC --prefix PREFIX` in a process and group of its own, with everything imported."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["sightflow.infra.cli.run", "sightflow.flows.enrich", "openai", "tests.stand_in_cli"])
    process = forks.Process(target=run, args=(("run", str(spec), "--prefix", prefix), dict(os.environ)))
    process.start()
    return process


def run(command: tuple[str, ...], environment: dict[str, str]) -> None:
    os.setsid()
    os.environ.update(environment)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    sys.argv[1:] = command
    from sightflow.infra.cli import main

    main()


@dataclass
class Work:
    spec: Path
    meter: Meter
    prefixes: list[str]

    @property
    def catalog(self) -> Catalog:
        return Catalog(uri=read_spec(self.spec).catalog)

    def settled(self) -> Balance:
        """The balance once what the last of the dead have left is settled, as any process does."""
        ledger = Ledger(self.catalog.store, self.catalog.uri)
        recover(ledger, journal_folder(self.catalog.uri))
        return ledger.balance()


@pytest.fixture
def work(tmp_path: Path, write_spec: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    prefixes = [f"file://{tmp_path}/media/{letter}" for letter in "abc"[:PROCESSES]]
    for k in range(REQUESTS):
        path = tmp_path / "media" / f"{'abc'[k % PROCESSES]}{k:05d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(Image.new("RGB", (16, 16), (k % 256, k // 256, 7))))
    with Meter() as meter:
        settings = {"base_url": meter.url, "max_concurrency": WORKERS, "max_new_tokens": 64}
        spec = write_spec(
            f"{tmp_path}/media/*",
            models={"gpt-4o": settings},
            enrichments=[{"capability": "image captioning", "name": "caption", "model": "gpt-4o"}],
            policy={"hosted": "allow", "shard_size": 64, "budget": {"month": CAP_USD}, "max_quarantine_ratio": 1.0},
        )
        yield Work(spec, meter, prefixes)


def usd_of_all() -> float:
    """What all requests cost, each once: a tile and the prompt in, and the words of `Meter` out."""
    prompt = 22  # of gpt-4o's caption, by the meter's count
    return sum((255 + prompt) * 2.5 + max(1, (8 + k % 256 % 40) // 4) * 10 for k in range(REQUESTS)) / 1e6


CAP_USD = round(usd_of_all() / 2, 3)


@pytest.mark.timeout(3600)
def test_killed_at_random_instants_runs_keep_within_the_budget_and_use_it(work: Work) -> None:
    meter, chance = work.meter, random.Random(SEED)
    meter.cap = round(CAP_USD * 1e9)
    kills = 0
    processes = [start(work.spec, prefix) for prefix in work.prefixes]
    while kills < KILLS and any(process.is_alive() for process in processes):
        # Each is killed while it asks, when some more has been charged.
        wanted = meter.total + meter.cap * chance.uniform(0.2, 1.0) / (KILLS + 1)
        asking: list[int] = []
        while any(process.is_alive() for process in processes) and not (meter.total >= wanted and asking):
            time.sleep(0.01)
            asking = [k for k, process in enumerate(processes) if process.is_alive() and meter.under_way[k] > 0]
        if asking:
            k = chance.choice(asking)
            os.killpg(processes[k].pid, signal.SIGKILL)
            processes[k].join()
            kills += 1
            processes[k] = start(work.spec, work.prefixes[k])
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [4] * PROCESSES, "each ends by the budget"
    assert kills == KILLS
    assert not meter.passed, "the meter has never passed the cap"
    balance = work.settled()
    assert not balance.blocks
    least = 0.95 if FULL else 0.9  # a request that is still to fit is a twentieth of the smaller cap by itself
    assert balance.used("month", next(iter(balance.months))) >= least * meter.cap, "and the cap is used"
    if FULL:  # else what was under way at the kills, and counts at its most, is too large a part of it
        assert meter.total >= 0.95 * meter.cap
    rows = work.catalog.scan("enrichments").select("uri", "cost_usd").collect()
    (month,) = balance.months.values()
    published = round(rows["cost_usd"].sum() * 1e9)
    lost = meter.total - month.known  # charged, with an answer that nobody was there to get
    assert 0 <= lost <= month.unknown, (meter.total, month)
    assert month.known + month.unknown <= meter.cap
    again = sum(count - 1 for count in meter.times.values())
    under_way = KILLS * WORKERS
    assert again <= under_way, "only what was under way at a kill is asked again"
    print(figures(meter, month, published, rows.height, again, kills))

    allowing = work.spec.read_text().replace(f"month: {CAP_USD}", "month: 1000")
    assert allowing != work.spec.read_text()
    work.spec.write_text(allowing)
    last = start(work.spec, "")
    last.join()
    assert last.exitcode == 0
    rows = work.catalog.scan("enrichments").select("uri", "cost_usd").collect()
    assert rows.height == REQUESTS and rows["uri"].is_unique().all()
    (month,) = work.settled().months.values()
    assert round(rows["cost_usd"].sum() * 1e9) == month.known, "every answer that was paid for is in the catalog"
    assert meter.total == month.known + sum(
        meter.charged[key] - meter.charged[key] // count for key, count in meter.times.items()
    ), "to the nanodollar, but for answers that came when nobody was there"
    assert sum(count - 1 for count in meter.times.values()) <= under_way


def figures(meter: Meter, month: Spent, published: int, rows: int, again: int, kills: int) -> str:
    return (
        f"{REQUESTS:,} requests, {PROCESSES} processes of {WORKERS} workers, {kills} kills, {meter.declined} declined; "
        f"cap ${meter.cap / 1e9:.6f}, meter ${meter.total / 1e9:.6f} ({meter.total / meter.cap:.1%}); "
        f"ledger: ${month.known / 1e9:.6f} answered, ${month.unknown / 1e9:.6f} at most under way at the kills; "
        f"catalog: {rows:,} rows, ${published / 1e9:.6f}; {again} asked again"
    )
