"""Planning at scale: a listing of very many objects against a catalog of every enrichment of each.

    python -m benchmarks.planning --objects 1000000 --enrichments 3

Three cases: nothing to do; everything new (there is no catalog yet); one object in a hundred changed and the recipe of
another one stale. Each is planned in a fresh process that is given the listing as a file, and does nothing but plan and
then cut the work into shards. Prints its seconds, what reading the same catalog columns with Polars alone takes, and
the peak of its resident memory (VmHWM).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.models.registry import open_model
from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.run.discovered import Discovered
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from sightflow.schemas.tables.inventory import INVENTORY_SCHEMA

ONE_IN = 100
_ROWS_A_COMMIT = 50_000
_CHANGED, _STALE = 7, 8  # of every hundred, this one


def spec_for(folder: Path, enrichments: int) -> EnrichmentSpec:
    """A spec over a bucket that is never asked, with detections of several things."""
    asked = [
        Enrichment(capability=Capability.OBJECT_DETECTION, name=f"things_{k}", labels=(f"thing {k}",))
        for k in range(enrichments)
    ]
    return EnrichmentSpec(
        source=("s3://bench/**",),
        catalog=f"file://{folder}/catalog",
        enrichments=tuple(asked),
        models={"florence-2": {"id": str(MODEL_FOLDER)}},
    )


def inventory_of(objects: int) -> pl.DataFrame:
    """A listing as S3 gives it: keys of some sixty characters in order, etags of 32 hexadecimal digits with sizes."""
    number = pl.int_range(objects, eager=True)
    digest = [f"{h:016x}{h ^ 0x5555555555555555:016x}" for h in number.hash(1)]
    size = 40_000 + number * 7919 % 100_000
    return pl.DataFrame(
        {
            "uri": "s3://bench/2026/camera-07/" + number.cast(pl.String()).str.zfill(12) + "-frontal-view.jpg",
            "media_kind": pl.repeat("image", objects, eager=True),
            "object_version": pl.Series(digest) + "-" + size.cast(pl.String()),
            "bytes": size,
            "modified": pl.repeat(
                datetime(2026, 1, 1, tzinfo=UTC), objects, dtype=pl.Datetime("us", "UTC"), eager=True
            ),
        },
        schema=INVENTORY_SCHEMA,
    )


def rows_of(inventory: pl.DataFrame, spec: EnrichmentSpec, recipe: str | None = None) -> pl.DataFrame:
    """A catalog row for every enrichment of these objects, as wide as real ones; `recipe`: an older one."""
    model = open_model("florence-2", spec.models["florence-2"])
    box = {"label": "thing", "x_min": 1.0, "y_min": 2.0, "x_max": 30.5, "y_max": 40.25}
    regions = pl.Series([[box]], dtype=CATALOG_SCHEMA["regions"])
    parts = []
    for enrichment in spec.enrichments:
        now = recipe or model.recipe(enrichment, MediaKind.IMAGE)
        filled = {
            "enrichment": enrichment.name,
            "capability": str(enrichment.capability),
            "recipe": now,
            "parameters": json.dumps({"labels": enrichment.labels}),
            "system": "florence-2",
            "model_id": "florence-community/Florence-2-base",
            "raw_reply": "thing<loc_100><loc_200><loc_300><loc_400>",
            "run_id": "00000000-0000-0000-0000-000000000000",
        }
        known = inventory.select(
            "uri",
            "media_kind",
            "object_version",
            fingerprint=pl.concat_str("object_version", pl.lit(now[:16])),
            sha256=pl.concat_str(*[pl.col("object_version").str.head(32)] * 2),
            regions=pl.lit(regions).first(),
            inferred_at="modified",
            **{column: pl.lit(value) for column, value in filled.items()},
        )
        missing = [pl.lit(None, dtype=kind).alias(c) for c, kind in CATALOG_SCHEMA.items() if c not in known.columns]
        parts.append(known.with_columns(missing).select(*CATALOG_SCHEMA))
    return pl.concat(parts)


def publish(spec: EnrichmentSpec, inventory: pl.DataFrame, recipe: str | None = None) -> None:
    """Publish a row for every enrichment of every object, in the order of the keys and in many commits, as runs do."""
    catalog = Catalog(uri=spec.catalog)
    for part in inventory.iter_slices(_ROWS_A_COMMIT // len(spec.enrichments)):
        catalog.publish(rows_of(part, spec, recipe))


def measure(folder: Path, listing: Path, enrichments: int) -> dict[str, float]:
    """Plan once and cut the work into shards; seconds, peak memory and what was found."""
    from sightflow.tasks.plan import plan
    from sightflow.tasks.runtime.shard_sizing import ShardSizer
    from sightflow.tasks.runtime.sharding import shards_of

    spec = spec_for(folder, enrichments)
    inventory = pl.read_parquet(listing)
    before = _peak_memory()
    began = time.perf_counter()
    work = plan.fn(Discovered(inventory), spec)
    planned = time.perf_counter() - began
    peak = _peak_memory()
    began = time.perf_counter()
    shards = sum(1 for _ in shards_of(work, spec.policy, ShardSizer()))
    cut = time.perf_counter() - began
    after = _peak_memory()
    columns = ("uri", "enrichment", "object_version", "recipe")
    began = time.perf_counter()
    Catalog(uri=spec.catalog).scan("enrichments").select(columns).collect()
    reading = time.perf_counter() - began
    return {
        "plan s": planned,
        "read alone s": reading,
        "peak before GiB": before,
        "peak GiB": peak,
        "to compute": work.to_compute,
        "shards": shards,
        "cut s": cut,
        "peak after cutting GiB": after,
    }


def _peak_memory() -> float:
    """The most that this process has held, in GiB."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 2**20


def _measured(folder: Path, inventory: pl.DataFrame, enrichments: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    listing = folder / "listing.parquet"
    inventory.write_parquet(listing)
    command = [sys.executable, "-m", "benchmarks.planning", "--measure", str(folder), "--enrichments", str(enrichments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Make the catalogs, and measure each case in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--enrichments", type=int, default=3)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        listing = arguments.measure / "listing.parquet"
        print(json.dumps(measure(arguments.measure, listing, arguments.enrichments)))
        return
    cases: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, inventory = Path(name), inventory_of(arguments.objects)
        spec = spec_for(folder, arguments.enrichments)
        cases["everything new"] = _measured(folder, inventory, arguments.enrichments)
        publish(spec, inventory)
        cases["nothing to do"] = _measured(folder, inventory, arguments.enrichments)
        number = pl.int_range(pl.len()) % ONE_IN
        publish(spec, inventory.filter(number == _STALE), recipe="of an earlier model")
        version = pl.when(number == _CHANGED).then(pl.lit("replaced")).otherwise("object_version")
        changed = inventory.with_columns(object_version=version)
        cases["1% changed, 1% stale"] = _measured(folder, changed, arguments.enrichments)
    print(f"{arguments.objects:,} objects against {arguments.objects * arguments.enrichments:,} rows")
    print(f"{'':24}", *(f"{case:>22}" for case in cases))
    for name in cases["nothing to do"]:
        print(f"{name:24}", *(f"{case[name]:22,.2f}" for case in cases.values()))


if __name__ == "__main__":
    main()
