"""Planning at scale: a synthetic listing against a catalog that already holds most of it.

    python -m benchmarks.planning --objects 100000 --enrichments 3

Prints seconds and the peak resident memory of planning alone (the process starts after the catalog was made), beside
what reading the same catalog columns with Polars alone takes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from blocks.catalog import Catalog
from blocks.systems import open_model
from infra.demo.bucket import MODEL_FOLDER
from schemas.capability import Capability, MediaKind
from schemas.catalog import CATALOG_SCHEMA
from schemas.enrichment import Enrichment
from schemas.inventory import INVENTORY_SCHEMA
from schemas.spec import EnrichmentSpec

CHANGED_SHARE = 0.01


def spec_for(folder: Path, enrichments: int) -> EnrichmentSpec:
    """A spec over a bucket that is never asked, with captions and detections."""
    asked = [
        Enrichment(capability=Capability.OBJECT_DETECTION, name=f"e{k}", labels=(f"thing {k}",))
        for k in range(enrichments)
    ]
    return EnrichmentSpec(
        source=("s3://bench/**",),
        catalog=f"file://{folder}/catalog",
        enrichments=tuple(asked),
        models={"florence-2": {"id": str(MODEL_FOLDER)}},
    )


def inventory_of(objects: int) -> pl.DataFrame:
    """A listing as S3 gives it: 64-character keys, etags."""
    number = pl.int_range(objects, eager=True)
    return pl.DataFrame(
        {
            "uri": "s3://bench/2026/camera-07/" + number.cast(pl.String()).str.zfill(12) + "-frontal-view.jpg",
            "media_kind": pl.repeat("image", objects, eager=True),
            "object_version": number.hash(1).cast(pl.String()) + "-" + (number % 100_000).cast(pl.String()),
            "bytes": number % 100_000,
            "modified": pl.repeat(
                datetime(2026, 1, 1, tzinfo=UTC), objects, dtype=pl.Datetime("us", "UTC"), eager=True
            ),
        },
        schema=INVENTORY_SCHEMA,
    )


def write_catalog(spec: EnrichmentSpec, inventory: pl.DataFrame) -> None:
    """Publish a row for every enrichment of every object; one in a hundred has an older version."""
    catalog = Catalog(uri=spec.catalog)
    model = open_model("florence-2", spec.models["florence-2"])
    versions = pl.col("object_version")
    stale = pl.int_range(pl.len()) % round(1 / CHANGED_SHARE) == 0
    for enrichment in spec.enrichments:
        recipe = model.recipe(enrichment, MediaKind.IMAGE)
        rows = inventory.select(
            pl.lit(None, dtype=kind).alias(name)
            if name not in ("uri", "object_version")
            else (versions if name == "object_version" else pl.col("uri")).alias(name)
            for name, kind in CATALOG_SCHEMA.items()
        ).with_columns(
            enrichment=pl.lit(enrichment.name),
            capability=pl.lit(str(enrichment.capability)),
            recipe=pl.lit(recipe),
            fingerprint=versions,
            object_version=pl.when(stale).then(pl.lit("older")).otherwise(versions),
            raw_reply=pl.lit("thing<loc_100><loc_200><loc_300><loc_400>"),
        )
        catalog.publish(rows)


def measure(folder: Path, objects: int, enrichments: int) -> dict[str, float]:
    """Plan once; seconds, peak memory and what was found."""
    from tasks.plan import plan

    spec = spec_for(folder, enrichments)
    inventory = inventory_of(objects)
    columns = ("uri", "enrichment", "object_version", "recipe")
    began = time.perf_counter()
    Catalog(uri=spec.catalog).scan("enrichments").select(columns).collect()
    reading = time.perf_counter() - began
    began = time.perf_counter()
    work = plan.fn(inventory, spec)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "plan s": seconds,
        "read s": reading,
        "ratio": seconds / reading,
        "peak GiB": peak,
        "to compute": work.to_compute,
    }


def main() -> None:
    """Make the catalog, then measure in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--enrichments", type=int, default=3)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.objects, arguments.enrichments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        inventory = inventory_of(arguments.objects)
        write_catalog(spec_for(Path(folder), arguments.enrichments), inventory)
        command = [sys.executable, "-m", "benchmarks.planning", "--measure", folder]
        command += ["--objects", str(arguments.objects), "--enrichments", str(arguments.enrichments)]
        measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"{arguments.objects:,} objects against {arguments.objects * arguments.enrichments:,} rows")
    for name, value in measured.items():
        print(f"{name:12} {value:,.2f}")


if __name__ == "__main__":
    main()
