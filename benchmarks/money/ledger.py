"""What the ledger adds to a run: 2,000 requests of 200 ms by 21 workers in 3 processes, with and without a budget.

    python -m benchmarks.money.ledger [--requests 2000] [--seconds 0.2] [--times 3]

The ledger lies in an S3 store in a process of its own, that answers each request 20 ms late; the journals on a disk.
The requests are sleeps, so that nothing else counts; before the first, as in a run, 0.3 s pass in which the first
objects are fetched, with and without a budget. Times are of all processes, from then to what is given back at the end,
the best of some, in turns. Beside it stand one entry of the ledger and one commit of a Delta
table to the same store, each the median of 20.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.parts.slow_store import slow_store
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.table_writes import append_next
from sightflow.blocks.money.allowance import Allowance
from sightflow.blocks.money.balance import Block
from sightflow.blocks.money.ledger import Ledger
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.policy import Budget
from sightflow.schemas.tables.runs import RUNS_SCHEMA

PROCESSES, WORKERS = 3, 7
FETCH_SECONDS = 0.3
BOUND, COST = 0.002, 0.0007
"""US dollars of a request to gpt-4o with a small picture: at most, and what it comes to."""
ANSWER = {"text": "a plain picture of something " * 8, "input_tokens": 268, "output_tokens": 60}


def ask(
    place: str, endpoint: str, catalog: str, requests: int, seconds: float, budget: bool, ready: Any, out: Any
) -> None:
    """Make so many requests, when all processes are ready; tell when the first began and all was given back."""
    store = ObjectStore(endpoint_url=endpoint)
    store.read(f"{catalog}/nothing")  # the connection is open, as in a run that has fetched
    allowance: Allowance | None = None
    ready.wait()
    began = time.time()
    if budget:
        allowance = Allowance(Ledger(store, catalog), Budget(day=1e6), f"run {place}", Path(place))
    time.sleep(FETCH_SECONDS)
    if allowance:
        allowance.__enter__()
    never = threading.Event()

    def one(k: int) -> None:
        hold = allowance.reserve(BOUND, never) if allowance else None
        time.sleep(seconds)
        if allowance and hold:
            allowance.settle(hold, COST, f"{k:064d}", ANSWER)

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(one, range(requests)))
    if allowance:
        allowance.__exit__()
        allowance.close(published=True)
    out.put((began, time.time()))


def measure(endpoint: str, catalog: str, requests: int, seconds: float, budget: bool) -> float:
    """Seconds for all of them."""
    spawn = multiprocessing.get_context("spawn")
    ready, out = spawn.Barrier(PROCESSES), spawn.Queue()
    with tempfile.TemporaryDirectory() as place:
        processes = [
            spawn.Process(
                target=ask, args=(place, endpoint, catalog, requests // PROCESSES, seconds, budget, ready, out)
            )
            for _ in range(PROCESSES)
        ]
        for process in processes:
            process.start()
        times = [out.get() for _ in processes]
        for process in processes:
            process.join()
    return max(end for _, end in times) - min(began for began, _ in times)


def median(work: Callable[[int], object], times: int = 20) -> float:
    """Seconds that it takes, at the middle of so many."""
    taken = []
    for k in range(times):
        began = time.perf_counter()
        work(k)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def one_entry(endpoint: str) -> float:
    """Seconds for an entry of a ledger that nobody else writes."""
    ledger = Ledger(ObjectStore(endpoint_url=endpoint), "s3://bench/alone")
    ledger.balance()
    blocks = [Block(run="r", day="2026-11-27", holder="h", known=k, reserved=5) for k in range(1, 21)]
    return median(lambda k: ledger.change(lambda _: ("settle", "b", blocks[k], True)))


def one_commit(endpoint: str) -> float:
    """Seconds for a commit of one row as the very next version of a Delta table, read first."""
    catalog = Catalog(uri="s3://bench/delta", store=ObjectStore(endpoint_url=endpoint))
    catalog.open_or_create("runs")
    row = pl.DataFrame([{"run_id": "r"}], schema=RUNS_SCHEMA)
    return median(lambda _: append_next(catalog.open_or_create("runs"), row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="not-a-secret", AWS_DEFAULT_REGION="us-east-1")
    with slow_store() as (endpoint, _):
        import boto3

        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="bench")
        without, within = [], []
        for turn in range(given.times):
            without.append(measure(endpoint, f"s3://bench/{turn}", given.requests, given.seconds, False))
            within.append(measure(endpoint, f"s3://bench/{turn}", given.requests, given.seconds, True))
        entries = len(ObjectStore(endpoint_url=endpoint).list_prefix("s3://bench/0/ledger/"))
        entry, commit = one_entry(endpoint), one_commit(endpoint)
    print(f"without a budget {min(without):.2f} s, with one {min(within):.2f} s: {min(within) / min(without) - 1:+.1%}")
    print(f"entries of the ledger in a run of 3 processes: {entries}")
    print(
        f"one entry {entry * 1000:.0f} ms, one commit of a Delta table {commit * 1000:.0f} ms: x {commit / entry:.1f}"
    )


if __name__ == "__main__":
    main()
