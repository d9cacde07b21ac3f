"""What an export takes beside the plainest one, all rows at once in memory: seconds, and memory as the catalog grows.

    python -m benchmarks.exports.growth --rows 100000 1000000

Synthetic rows of images, three regions each, in one catalog for each size. Every export is a process of its own, whose
largest resident memory is told; "plain" is one that collects every row with polars and writes it as lines of JSON.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.exports.export import export, export_format
from sightflow.blocks.exports.selected_rows import Wanted
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA

_FORMATS = ("jsonl", "parquet", "coco", "yolo", "hf", "webdataset", "label-studio")
_A_COMMIT = 100_000
_MADE = datetime(2026, 1, 1, tzinfo=UTC)


def rows(first: int, count: int) -> pl.DataFrame:
    """Rows of so many images from a number on, with distinct keys in mixed order."""
    number = pl.int_range(first, first + count, eager=True)
    mixed = (number * 2_654_435_761) % 2**32
    region = pl.struct(
        label=pl.format("label {}", pl.col("number") % 80),
        x_min=pl.col("number") % 300 + 0.5,
        y_min=pl.col("number") % 200 + 0.25,
        x_max=pl.col("number") % 300 + 100.125,
        y_max=pl.col("number") % 200 + 100.0,
        score=(pl.col("number") % 100) / 100,
        mask=pl.lit(None, pl.String()),
        frame_index=pl.lit(None, pl.Int64()),
        seconds=pl.lit(None, pl.Float64()),
    )
    made = pl.DataFrame({"number": number, "mixed": mixed}).select(
        uri=pl.format("s3://photos/{}/{}.jpg", pl.col("mixed") % 1000, "mixed"),
        enrichment=pl.lit("objects"),
        capability=pl.lit("object_detection"),
        media_kind=pl.lit("image"),
        object_version=pl.format("{}-5", "mixed"),
        sha256=pl.lit("a" * 64),
        fingerprint=pl.format("fingerprint {}", "mixed"),
        width=pl.lit(640, pl.Int64()),
        height=pl.lit(480, pl.Int64()),
        parameters=pl.lit("{}"),
        regions=pl.concat_list([region, region, region]),
        raw_reply=pl.lit("what the model said " * 10),
        inferred_at=pl.lit(_MADE),
    )
    missing = [pl.lit(None, kind).alias(name) for name, kind in CATALOG_SCHEMA.items() if name not in made.columns]
    return made.with_columns(missing).select(*CATALOG_SCHEMA).cast(CATALOG_SCHEMA)  # type: ignore[arg-type]


def measured(work: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Seconds, and the largest resident memory in MB, of some work in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_in_process, args=(send, work, arguments))
    process.start()
    send.close()
    found: tuple[float, float] = receive.recv()
    process.join()
    return found


def _in_process(send: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    began = time.monotonic()
    work(*arguments)
    # Not `ru_maxrss`, which a process has from the one that started it.
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    send.send((time.monotonic() - began, int(peak.split()[1]) / 1024))


def write_all(place: str, out: str) -> None:
    """Every row at once."""
    Catalog.at(place).scan("enrichments").collect().write_ndjson(out)


def export_to(place: str, format: str, out: str) -> None:
    """One export of links."""
    export(Catalog.at(place), Wanted(), export_format(format), Path(out), "link", 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--formats", nargs="+", default=_FORMATS)
    options = parser.parse_args()
    print(f"{'rows':>10} {'format':14}{'seconds':>9}{'x plain':>8}{'MB':>8}{'x plain':>8}")
    for count in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            catalog = Catalog.at(f"{folder}/catalog")
            for first in range(0, count, _A_COMMIT):
                catalog.publish(rows(first, min(_A_COMMIT, count - first)))
            place = f"{folder}/catalog"
            seconds, memory = measured(write_all, place, f"{folder}/plain.jsonl")
            print(f"{count:>10,} {'plain':14}{seconds:>9.1f}{1:>8.1f}{memory:>8.0f}{1:>8.1f}", flush=True)
            for format in options.formats:
                took, used = measured(export_to, place, format, f"{folder}/{format}")
                ratios = f"{took:>9.1f}{took / seconds:>8.1f}{used:>8.0f}{used / memory:>8.1f}"
                print(f"{count:>10,} {format:14}{ratios}", flush=True)


if __name__ == "__main__":
    main()
