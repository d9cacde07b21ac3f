"""The gallery at scale: a catalog of very many rows in a browser's place, and a static one in a real browser.

    python -m benchmarks.gallery --rows 1000000 --objects 10000

Half of the rows are captions, half detections of two objects. `sightflow gallery` runs in a process of its own and is
asked over HTTP. Each question is also asked of the Delta tables themselves, by DuckDB as `sightflow catalog query`
does, which is the ratio. Prints seconds, and the peak of the server's resident memory (VmHWM). The static
gallery's index has so many objects; its filter is timed by the page's own clock in Chromium
(`make .tools/browser/ready`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.sql_views import connect
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA

_ROWS_A_COMMIT = 100_000
_TIMES = 5
_WORDS = [
    "red", "green", "blue", "dog", "cat", "car", "tree", "street",
    "night", "rain", "people", "window", "table", "cup", "running", "standing",
]  # fmt: skip


def rows(first: int, count: int) -> pl.DataFrame:
    """So many rows, two an object: texts of eight words out of sixteen and a number, boxes of two of forty labels."""
    number = pl.int_range(first // 2, (first + count) // 2, eager=True)
    shuffled = number.hash(3)
    words = [
        " ".join(_WORDS[h >> (4 * k) & 15] for k in range(8)) + f" {n}" for h, n in zip(shuffled, number, strict=True)
    ]
    boxes = [
        [
            {
                "label": f"thing {(h >> 8 * k) % 40}", "x_min": 1.0 + k, "y_min": 2.0, "x_max": 30.5, "y_max": 40.25,
                "score": (h >> 16 * k) % 1000 / 1000,
            }
            for k in range(2)
        ]
        for h in shuffled
    ]  # fmt: skip
    began = datetime(2026, 1, 1, tzinfo=UTC)
    shared = pl.DataFrame(
        {
            "uri": "s3://bench/2026/camera-07/" + number.cast(pl.String()).str.zfill(12) + "-frontal-view.jpg",
            "object_version": [f"{h:016x}-40000" for h in shuffled],
            "sha256": [f"{h:064x}" for h in shuffled],
            "inferred_at": [began + timedelta(seconds=n) for n in number],
        }
    ).with_columns(
        media_kind=pl.lit("image"), recipe=pl.lit("r"), width=1920, height=1080, parameters=pl.lit("{}"),
        model_id=pl.lit("some/model"), input_tokens=1, output_tokens=9, cost_usd=0.0001, schema_version=1,
        run_id=pl.lit("run-7"),
    )  # fmt: skip
    captions = shared.with_columns(
        text=pl.Series(words), enrichment=pl.lit("caption"), capability=pl.lit("image_captioning"),
        system=pl.lit("qwen2-vl"), fingerprint=pl.Series([f"c{h:031x}" for h in shuffled]),
    )  # fmt: skip
    detections = shared.with_columns(
        regions=pl.Series(boxes, dtype=CATALOG_SCHEMA["regions"], strict=False), enrichment=pl.lit("objects"),
        capability=pl.lit("object_detection"), system=pl.lit("florence-2"),
        fingerprint=pl.Series([f"o{h:031x}" for h in shuffled]),
    )  # fmt: skip
    return pl.concat([captions, detections], how="diagonal").pipe(_whole)


def _whole(frame: pl.DataFrame) -> pl.DataFrame:
    missing = [pl.lit(None, kind).alias(name) for name, kind in CATALOG_SCHEMA.items() if name not in frame.columns]
    return frame.with_columns(missing).select(pl.col(name).cast(kind) for name, kind in CATALOG_SCHEMA.items())


def timed(ask: Callable[[], Any], times: int = _TIMES) -> float:
    """The median of so many seconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


QUESTIONS = {
    "first screen": ("", "SELECT DISTINCT uri FROM enrichments ORDER BY uri LIMIT 48"),
    "label": (
        "?label=thing+7",
        "SELECT DISTINCT uri FROM enrichments WHERE "
        "list_contains(list_transform(regions, lambda r: r.label), 'thing 7') ORDER BY uri LIMIT 48",
    ),
    "label and score": (
        "?label=thing+7&least=0.9",
        "SELECT DISTINCT uri FROM enrichments WHERE len(list_filter(regions, lambda r: r.label = 'thing 7' AND "
        "r.score >= 0.9)) > 0 ORDER BY uri LIMIT 48",
    ),
    "words": (
        "?q=dog+window",
        "SELECT DISTINCT uri FROM enrichments WHERE contains(lower(text), 'dog') AND contains(lower(text), 'window') "
        "ORDER BY uri LIMIT 48",
    ),
    "system, newest first": (
        "?system=florence-2&sort=newest",
        "SELECT uri FROM enrichments WHERE system = 'florence-2' GROUP BY uri "
        "ORDER BY max(inferred_at) DESC, uri LIMIT 48",
    ),
    "prefix": (
        "?prefix=s3%3A%2F%2Fbench%2F2026%2Fcamera-07%2F00000012",
        "SELECT DISTINCT uri FROM enrichments WHERE starts_with(uri, 's3://bench/2026/camera-07/00000012') "
        "ORDER BY uri LIMIT 48",
    ),
}
"""What is asked: of the gallery, and of the tables themselves."""


def measure(catalog: Catalog) -> None:
    """Start the gallery on a catalog, ask, and print."""
    place = catalog.uri.removeprefix("file://")
    command = [sys.executable, "-c", "from sightflow.infra.cli import main; main()", "gallery", place]
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as server:
        assert server.stdout is not None
        url = next(line.strip() for line in server.stdout if line.startswith("http"))
        print(f"{'the address is printed':32} {time.perf_counter() - began:7.2f} s")
        with httpx.Client(timeout=120) as client:
            asked = time.perf_counter()
            client.get(url)
            print(f"{'the very first screen':32} {time.perf_counter() - asked:7.2f} s")
            while "is being read" in client.get(url).text:
                time.sleep(0.5)
            print(f"{'all has been read after':32} {time.perf_counter() - began:7.2f} s")
            connection = connect(catalog)
            for name, (address, sql) in QUESTIONS.items():
                ours = timed(lambda address=address: client.get(url + address).raise_for_status())  # type: ignore[misc]
                theirs = timed(lambda sql=sql: connection.execute(sql).fetchall())  # type: ignore[misc]
                print(f"{name:32} {ours:7.3f} s   the tables {theirs:7.3f} s   ratio {theirs / ours:5.1f}")
            uri = "s3://bench/2026/camera-07/000000001234-frontal-view.jpg"
            print(f"{'an object':32} {timed(lambda: client.get(url + 'object', params={'uri': uri})):7.3f} s")
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
        assert peak is not None
        print(f"{'peak memory of the server':32} {int(peak[1]) / 1024:7.0f} MiB")
        server.kill()


def measure_static(folder: Path, objects: int) -> None:
    """Time the filter of a static gallery in Chromium, by the page's own clock."""
    from playwright.sync_api import sync_playwright

    from tests.browser.chromium import launch_settings

    catalog = Catalog(uri=f"file://{folder}/small")
    catalog.publish(rows(0, 2))
    command = [sys.executable, "-c", "from sightflow.infra.cli import main; main()", "gallery"]
    subprocess.run([*command, f"{folder}/small", "--out", f"{folder}/site"], check=True, stdout=subprocess.DEVNULL)
    head, _, tail = (folder / "site/index.js").read_text().partition("= ")
    index = json.loads(tail.rstrip(";\n"))
    index["names"]["label"] = [f"thing {k}" for k in range(40)]
    own = rows(0, 2 * objects)
    texts = own.filter(pl.col("text").is_not_null())["text"]
    boxes = own.filter(pl.col("regions").is_not_null())["regions"]
    first = index["objects"][0]
    index["objects"] = [
        [
            f"s3://b/{n:06d}.jpg",
            *first[1:6],
            [
                [0, 0, 0, -1, "2026-01-01T00:00:00", 0, None, None, text, [], "run"],
                [1, 1, 1, -1, "2026-01-01T00:00:00", 0, 0.1, 0.9, "",
                 [[int(box["label"].split()[1]), box["score"]] for box in regions], "run"],
            ],
        ]
        for n, (text, regions) in enumerate(zip(texts, boxes, strict=True))
    ]  # fmt: skip
    (folder / "site/index.js").write_text(f"{head}= {json.dumps(index)};\n")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**launch_settings())
        page = browser.new_page()
        for name, address in {
            "all": "sort=-uri", "label": "label=thing+7", "words": "q=dog+window", "score": "label=thing+7&least=0.9",
        }.items():  # fmt: skip
            taken = []
            for _ in range(_TIMES):
                page.goto("about:blank")
                page.goto(f"{(folder / 'site/index.html').as_uri()}#{address}")
                taken.append(float(page.locator("#grid").get_attribute("data-milliseconds") or "nan"))
            print(f"{'static, ' + name:32} {statistics.median(taken):7.1f} ms of scripting")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--objects", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalog = Catalog(uri=f"file://{folder}/catalog")
        for first in range(0, given.rows, _ROWS_A_COMMIT):
            catalog.publish(rows(first, min(_ROWS_A_COMMIT, given.rows - first)))
        print(f"{given.rows:,} rows of {given.rows // 2:,} objects")
        measure(catalog)
        print(f"{given.objects:,} objects in a folder")
        measure_static(folder, given.objects)


if __name__ == "__main__":
    main()
