"""The plan is what a few lines of plain Python say it is, whatever is listed, published and in quarantine."""

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.failure import Cause
from sightflow.schemas.policy import Policy
from sightflow.schemas.run.discovered import Discovered
from sightflow.schemas.run.plan import RunPlan, Status
from sightflow.schemas.run.selection import Selection
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.spec_reader import read_spec
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from sightflow.schemas.tables.inventory import INVENTORY_SCHEMA
from sightflow.schemas.tables.quarantine import QUARANTINE_SCHEMA
from sightflow.tasks.plan import plan
from sightflow.tasks.route import resolve_enrichments
from sightflow.tasks.runtime.shard_sizing import ShardSizer
from sightflow.tasks.runtime.sharding import shards_of

Rows = list[dict[str, Any]]
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


def objects(chance: random.Random, count: int) -> Rows:
    """Objects in no order, some of their folders out of the source's reach when they are published."""
    kinds = chance.choice([["image"], ["image", "video"]])
    return [
        {
            "uri": f"s3://bb/{chance.choice('aé')}/{number:03d}'%20.x",
            "media_kind": chance.choice(kinds),
            "object_version": chance.choice("uvw"),
            "bytes": chance.randrange(100),
            "modified": MONDAY + timedelta(days=chance.randrange(4)),
        }
        for number in chance.sample(range(100), count)
    ]


def rows(chance: random.Random, listed: Rows, spec: EnrichmentSpec) -> Rows:
    """Rows of some of these objects and of some that are gone or out of reach, with every mismatch there is."""
    gone = [{"uri": uri, "object_version": "u"} for uri in ("s3://bb/a/gone.x", "s3://bb/é/gone.x", "s3://other/0.x")]
    recipes = defaultdict(list)
    for resolved, _ in resolve_enrichments(spec):
        recipes[resolved.enrichment.name].append(resolved.recipe)
    keys = [(at, name) for at in (*listed, *gone) for name in (*recipes, "asked_before")]
    return [
        {
            "uri": at["uri"],
            "enrichment": name,
            "capability": "image captioning" if name == "caption" else "object detection",
            "object_version": chance.choice([at["object_version"], "u", "v"]),
            "recipe": chance.choice([*recipes[name], "another"]),
            "cause": str(chance.choice([*Cause])),
            "system": chance.choice(["florence-2", "llava-next"]),
        }
        for at, name in chance.sample(keys, chance.randrange(len(keys) + 1))
    ]


def selections(chance: random.Random) -> Selection:
    given: dict[str, Any] = {
        "prefix": "a/",
        "since": MONDAY + timedelta(days=2),
        "sample": 0.5,
        "limit": 3,
        "replay": True,
        "causes": (Cause.DECODE, Cause.MALFORMED, Cause.RATE_LIMITED),
        "system": "florence-2",
        "manifest": "listed.json",
    }
    return Selection(**{name: value for name, value in given.items() if chance.random() < 0.2})


def stated(inventory: pl.DataFrame, known: Rows, cases: Rows, spec: EnrichmentSpec, selection: Selection) -> Any:
    """What is to be done, counted, orphaned and closed, said one object and one enrichment at a time."""
    published = {(row["uri"], row["enrichment"]): row for row in known}
    failed = {(row["uri"], row["enrichment"]): row for row in cases}
    kinds = set(inventory["media_kind"])
    everywhere = resolve_enrichments(spec)
    served = {resolved.enrichment.name for resolved, _ in everywhere if resolved.media_kind in kinds}
    resolved_enrichments = [
        resolved for resolved, _ in everywhere if resolved.media_kind in kinds or resolved.enrichment.name not in served
    ]
    counts: Any = {
        (resolved.enrichment.name, str(resolved.media_kind)): dict.fromkeys(Status, 0)
        for resolved in resolved_enrichments
    }
    todo = []
    for at in selection.of(inventory).iter_rows(named=True):
        for resolved in resolved_enrichments:
            if resolved.media_kind != at["media_kind"]:
                continue
            key = (at["uri"], resolved.enrichment.name)
            row, case = published.get(key), failed.get(key)
            now = (at["object_version"], resolved.recipe)
            if row and (row["object_version"], row["recipe"]) == now:
                status = Status.UNCHANGED
            elif case and not Cause(case["cause"]).transient and (case["object_version"], case["recipe"]) == now:
                status = Status.QUARANTINED
            elif row is None:
                status = Status.NEW
            else:
                status = Status.STALE if row["object_version"] == at["object_version"] else Status.CHANGED
            counts[resolved.enrichment.name, str(resolved.media_kind)][status] += 1
            if selection.replay:
                wanted = (
                    status != Status.UNCHANGED
                    and case is not None
                    and (not selection.causes or case["cause"] in selection.causes)
                    and (not selection.system or case["system"] == selection.system)
                )
            else:
                stale = status == Status.STALE and spec.policy.stale == "recompute"
                wanted = status in (Status.NEW, Status.CHANGED) or stale
            if wanted:
                todo.append((at, resolved))
    if selection.limit is not None:
        first = sorted({at["uri"] for at, _ in todo})[: selection.limit]
        todo = [(at, resolved) for at, resolved in todo if at["uri"] in first]
    together = defaultdict(list)
    for at, resolved in todo:
        together[resolved.systems[0], at["media_kind"], at["uri"], at["object_version"], at["bytes"]].append(
            resolved.enrichment.name
        )
    frame = [
        (*key, sorted(names), sorted(name for name in names if (key[2], name) in published))
        for key, names in sorted(together.items())
    ]
    per_ask = {
        key: sum((resolved.enrichment.name, str(resolved.media_kind)) == key for _, resolved in todo) for key in counts
    }

    def gone(table: Rows) -> list[tuple[str, int]]:
        uris = [row["uri"] for row in table if row["uri"].startswith("s3://bb/a/")]
        missing = set(uris) - set(inventory["uri"])
        return [] if selection.manifest else sorted((uri, uris.count(uri)) for uri in missing)

    return frame, counts, per_ask, gone(known), [uri for uri, _ in gone(cases)]


def said(work: RunPlan) -> Any:
    counts = {(plan.enrichment, str(plan.media_kind)): plan.counts for plan in work.plans}
    per_ask = {(plan.enrichment, str(plan.media_kind)): plan.to_compute for plan in work.plans}
    assert set(work.frame["delivery"]) <= {"direct"}
    return (
        work.frame.drop("delivery").rows(),
        counts,
        per_ask,
        work.orphaned.rows(),
        sorted(set(work.orphaned_quarantine["uri"])),
    )


@pytest.fixture(scope="module")
def detections(tmp_path_factory: pytest.TempPathFactory) -> EnrichmentSpec:
    from sightflow.infra.demo.bucket import MODEL_FOLDER

    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(
        "source: s3://bb/a/*\ncatalog: catalog\nenrichments:\n"
        "  - {capability: object detection, name: things, labels: [a]}\n"
        "  - {capability: object detection, name: others, labels: [b], media: image}\n"
        "  - {capability: image captioning, name: caption}\n"
        f"models: {{florence-2: {{id: {MODEL_FOLDER}}}}}\n"
    )
    return read_spec(path)


@pytest.mark.parametrize("seed", range(25))
def test_the_plan_is_what_plain_python_says(seed: int, detections: EnrichmentSpec, tmp_path: Path) -> None:
    chance = random.Random(seed)
    policy = Policy(stale=chance.choice(["recompute", "keep"]))
    spec = detections.model_copy(update={"catalog": f"file://{tmp_path}/catalog", "policy": policy})
    selection = selections(chance)
    listed = objects(chance, chance.choice([0, 1, 30]))
    known, cases = rows(chance, listed, spec), rows(chance, listed, spec)
    catalog = Catalog(uri=spec.catalog)
    if known:
        catalog.publish(pl.DataFrame([row | {"fingerprint": "f"} for row in known], schema=CATALOG_SCHEMA))
    if cases:
        catalog.quarantine(pl.DataFrame(cases, schema=QUARANTINE_SCHEMA))
    inventory = pl.DataFrame(listed, schema=INVENTORY_SCHEMA)
    work = plan.fn(Discovered(inventory), spec, selection)
    assert said(work) == stated(inventory, known, cases, spec, selection)
    assert work.objects == inventory.height
    shards = list(shards_of(work, Policy(shard_size=4, shard_bytes=200), ShardSizer()))
    cut = [
        (
            shard.system,
            str(shard.media_kind),
            item.uri,
            item.object_version,
            item.bytes,
            [*item.enrichments],
            [*item.replaced],
        )
        for shard in shards
        for item in shard.items
    ]
    assert cut == work.frame.drop("delivery").rows()
    assert [shard.index for shard in shards] == list(range(len(shards)))
