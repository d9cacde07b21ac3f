"""Everything at once on three vendors: failures, disorder, expiry, a lost file, and a kill between each two steps.

BATCH_ITEMS=3000 python -m pytest tests/tasks/batches/test_three_vendors.py -s --timeout 3000
"""

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sightflow.schemas.run.plan import Status
from sightflow.tasks.batches.poll import unsettled
from sightflow.tasks.open import open_catalog
from tests.loopback.batches.service import COMPLETED, EXPIRED
from tests.loopback.hosted_systems import SYSTEMS, System, named
from tests.loopback.server import Received, Say
from tests.loopback.server import Status as Declined
from tests.tasks.batches.stages import (
    Books,
    collect,
    images,
    planned,
    processes_are_gone,
    run,
    spec_of,
    without_prefect,
)
from tests.tasks.batches.test_kills import KILLS, Killed

ITEMS = int(os.environ.get("BATCH_ITEMS", "10"))
EACH = 1 if "BATCH_ITEMS" in os.environ else 4
"""One kill in so many: alone each of them is tried in test_kills."""
FAILING = 50 if ITEMS > 100 else 5  # one in so many


def number_of(uri: str) -> int:
    return int(uri.rpartition("/")[2].removesuffix(".png"))


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
def test_every_item_ends_once_and_is_paid_once(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_prefect(monkeypatch)
    images(tmp_path / "media", ITEMS)
    tried: Counter[int] = Counter()

    def behave(received: Received) -> Say | Declined:
        red, green, _ = received.images[0].getpixel((0, 0))
        k = red * 256 + green
        tried[k] += 1
        if k % FAILING == 2:  # half of these for good, the others once
            return Say("", "empty") if k % (2 * FAILING) == 2 else Declined(503) if tried[k] == 1 else Say("at last")
        return Say("a plain image")

    began = time.perf_counter()
    with system.on_loopback(behave) as provider:
        shard = max(ITEMS // 20, 5)
        policy = {"shard_size": shard, "budget": {"day": max(50, ITEMS // 10)}}  # more than all may cost at most
        spec = spec_of(tmp_path, system.name, provider.url, policy=policy, id=system.id)
        books = Books(provider, system, spec)
        processes_are_gone(monkeypatch)
        service, lost = provider.batches, set[str]()
        for number, (name, kill) in enumerate(list(KILLS.items())[1::EACH]):
            service.share, service.ends = (0.5, EXPIRED) if number % 3 == 0 else (1.0, COMPLETED)
            with monkeypatch.context() as patched:
                kill(patched)
                try:
                    run(spec)
                    collect(spec)
                except Killed:
                    pass
            books.look()
            if name == "submitted":
                lost = lose_one(provider)
        service.share, service.ends = 1.0, COMPLETED
        for _ in range(2):
            collect(spec)
            run(spec)
        collect(spec)
        catalog, last = open_catalog(spec), planned(spec)
        assert unsettled(catalog) == [] and last.to_compute == 0 and last.count(Status.UNDER_WAY) == 0
        assert provider.complaints == []
        assert service.files == {}
        balance = books.look()
        assert balance.blocks == {} and books.wrong == [], "the ledger is never below the meter, and holds nothing more"
        if not lost:
            books.end()
        paid = Counter({meter: count - (meter in lost) for meter, count in provider.answered.items()})
        jobs, files = len(service.jobs), len(service.names)
    seconds = time.perf_counter() - began
    rows, failed = catalog.scan("enrichments").collect(), catalog.scan("quarantine").collect()
    ended = Counter(map(number_of, [*rows["uri"], *failed["uri"]]))
    assert ended == Counter(range(ITEMS)), "every item ends once"
    assert set(map(number_of, failed["uri"])) == set(range(2, ITEMS, 2 * FAILING))
    assert set(paid.values()) == {1} and len(paid) == ITEMS, "every item is paid once"
    bill = rows["cost_usd"].sum() + failed["cost_usd"].sum()
    print(f"{system.id}: {ITEMS} items in {jobs} batches, {files} files, {seconds:.1f} s, ${bill:.4f}")


def lose_one(provider: Any) -> set[str]:
    """Let the vendor lose the results of a batch that it has done, and return what was paid for them."""
    job = next(job for job in provider.batches.jobs.values() if job.state == "running")
    provider.batches.finish(job)
    for file in job.results:
        provider.batches.files.pop(file)
    return set(job.paid)
