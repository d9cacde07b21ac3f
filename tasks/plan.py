"""plan: what is new, changed or stale; nothing else is ever computed again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from blocks.catalog import Catalog, TableName
from blocks.object_store import matcher
from schemas.capability import MediaKind
from schemas.failure import Cause
from schemas.plan import Ask, EnrichmentPlan, Route, Shard, ShardItem, Status, Work
from schemas.selection import EVERYTHING, Selection
from schemas.spec import EnrichmentSpec, Policy
from tasks.discover import open_catalog
from tasks.route import asks_of

_PERMANENT = [cause.value for cause in Cause if not cause.transient]
_WORK_COLUMNS = {
    "uri": pl.String(),
    "object_version": pl.String(),
    "bytes": pl.Int64(),
    "media_kind": pl.String(),
    "system": pl.String(),
    "enrichment": pl.String(),
}
_NOTHING_GONE = pl.DataFrame(schema={"uri": pl.String(), "rows": pl.UInt32()})


@task(retries=2, retry_delay_seconds=exponential_backoff(2), cache_policy=NO_CACHE, persist_result=False)
def plan(inventory: pl.DataFrame, spec: EnrichmentSpec, selection: Selection = EVERYTHING) -> Work:
    """Compare the inventory with the catalog on what determines each result; return what is left to do.

    Reads four columns of the catalog and no media. Raises SpecError if an enrichment cannot be served.
    """
    catalog = open_catalog(spec)
    asks = _of_what_there_is(asks_of(spec), inventory)
    names = [enrichment.name for enrichment in spec.enrichments]
    columns = ("uri", "enrichment", "object_version", "recipe")
    partial = selection.manifest is not None or spec.partial
    asked = pl.col("enrichment").is_in(names) & (_within(inventory) if partial else True)
    known = catalog.read(catalog.scan("enrichments").filter(asked).select(columns))
    cases = catalog.read(catalog.scan("quarantine").filter(asked).select(*columns, "cause", "system"))
    failed = cases.filter(pl.col("cause").is_in(_PERMANENT)).select(columns)
    chosen = selected(inventory, selection)
    counted, pending = [], []
    for ask, route in asks:
        statuses = _statuses(chosen, known, failed, ask)
        todo = _todo(statuses, cases, ask, spec.policy, selection)
        counted.append((statuses, ask, route))
        pending.append(
            todo.select(
                "uri",
                "object_version",
                "bytes",
                "media_kind",
                system=pl.lit(ask.systems[0]),
                enrichment=pl.lit(ask.enrichment.name),
            )
        )
    if selection.limit is not None:
        first = pl.concat(pending).select("uri").unique().sort("uri").head(selection.limit)
        pending = [part.join(first, on="uri", how="semi") for part in pending]
    plans = [_counted(*each, part.height) for each, part in zip(counted, pending, strict=True)]
    listed = pl.concat([pl.DataFrame(schema=_WORK_COLUMNS), *pending])
    # All that is asked of one object of one system goes together: it is fetched and decoded once.
    frame = (
        listed.group_by("system", "media_kind", "uri", "object_version", "bytes")
        .agg(enrichments=pl.col("enrichment").sort())
        .sort("system", "media_kind", "uri")
    )
    kinds = {str(ask.media_kind) for ask, _ in asks}
    return Work(
        frame=frame,
        orphans=_NOTHING_GONE if partial else _gone(catalog, "enrichments", inventory, spec),
        closed=(_NOTHING_GONE if partial else _gone(catalog, "quarantine", inventory, spec)).select("uri"),
        asks=tuple(ask for ask, _ in asks),
        plans=tuple(plans),
        objects=inventory.height,
        not_asked=inventory.filter(~pl.col("media_kind").is_in(list(kinds))).height,
    )


def _within(inventory: pl.DataFrame) -> pl.Expr:
    """Between the first and the last of these URIs: by that the catalog's files are told apart without being read."""
    if inventory.is_empty():
        return pl.lit(False)
    return pl.col("uri").is_between(pl.lit(inventory["uri"].min()), pl.lit(inventory["uri"].max()))


def selected(inventory: pl.DataFrame, selection: Selection) -> pl.DataFrame:
    """The objects that a selection looks at; a sample is the same objects whenever it is taken."""
    if selection.prefix:
        key = pl.col("uri").str.replace(r"^(s3://[^/]+|file://)/?", "")
        begins = pl.col("uri").str.starts_with(selection.prefix) | key.str.starts_with(selection.prefix.lstrip("/"))
        inventory = inventory.filter(begins)
    if selection.since is not None:
        inventory = inventory.filter(pl.col("modified") >= selection.since)
    if selection.sample < 1:
        share = [
            int.from_bytes(hashlib.sha256(uri.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64
            for uri in inventory["uri"]
        ]
        inventory = inventory.filter(pl.Series(share, dtype=pl.Float64()) < selection.sample)
    return inventory


def _todo(statuses: pl.DataFrame, cases: pl.DataFrame, ask: Ask, policy: Policy, selection: Selection) -> pl.DataFrame:
    """What is computed of an enrichment: by the policy, or in a replay what stands in quarantine."""
    if not selection.replay:
        return statuses.filter(pl.col("status").is_in(_wanted(policy)))
    again = cases.filter(pl.col("enrichment") == ask.enrichment.name)
    if selection.causes:
        again = again.filter(pl.col("cause").is_in([cause.value for cause in selection.causes]))
    if selection.system:
        again = again.filter(pl.col("system") == selection.system)
    return statuses.filter(pl.col("status") != Status.UNCHANGED.value).join(again, on="uri", how="semi")


def _of_what_there_is(asks: Sequence[tuple[Ask, Route]], inventory: pl.DataFrame) -> tuple[tuple[Ask, Route], ...]:
    """Leave out kinds of media that were not listed, where an enrichment is asked of another kind that was."""
    listed = set(inventory["media_kind"].unique())
    served = {ask.enrichment.name for ask, _ in asks if ask.media_kind in listed}
    return tuple((a, r) for a, r in asks if a.media_kind in listed or a.enrichment.name not in served)


def _statuses(inventory: pl.DataFrame, known: pl.DataFrame, failed: pl.DataFrame, ask: Ask) -> pl.DataFrame:
    """The objects an enrichment is asked of, each with its `status`."""
    mine = pl.col("enrichment") == ask.enrichment.name
    refused = failed.filter(mine & (pl.col("recipe") == ask.recipe)).select("uri", "object_version", hopeless=True)
    there = known.filter(mine).select("uri", known_version="object_version", known_recipe="recipe")
    same_version = pl.col("known_version") == pl.col("object_version")
    status = (
        pl.when(same_version & (pl.col("known_recipe") == ask.recipe))
        .then(pl.lit(Status.UNCHANGED.value))
        .when(pl.col("hopeless"))
        .then(pl.lit(Status.QUARANTINED.value))
        .when(pl.col("known_version").is_null())
        .then(pl.lit(Status.NEW.value))
        .when(same_version)
        .then(pl.lit(Status.STALE.value))
        .otherwise(pl.lit(Status.CHANGED.value))
    )
    return (
        inventory.filter(pl.col("media_kind") == str(ask.media_kind))
        .join(there, on="uri", how="left")
        .join(refused, on=["uri", "object_version"], how="left")
        .with_columns(status=status)
    )


def _wanted(policy: Policy) -> list[str]:
    """The statuses that are computed."""
    wanted = [Status.NEW.value, Status.CHANGED.value]
    return [*wanted, Status.STALE.value] if policy.stale == "recompute" else wanted


def _counted(statuses: pl.DataFrame, ask: Ask, route: Route, to_compute: int) -> EnrichmentPlan:
    found = dict(statuses["status"].value_counts().iter_rows())
    counts = {status: int(found.get(status.value, 0)) for status in Status}
    return EnrichmentPlan(
        enrichment=ask.enrichment.name,
        capability=ask.enrichment.capability,
        media_kind=ask.media_kind,
        route=route,
        recipe=ask.recipe,
        counts=counts,
        to_compute=to_compute,
        price=to_compute * route.candidates[0].price_per_item,
    )


def _gone(catalog: Catalog, name: TableName, inventory: pl.DataFrame, spec: EnrichmentSpec) -> pl.DataFrame:
    """The `uri`s of a table that the source's patterns cover and the listing no longer holds, with their `rows`."""
    held = catalog.read(catalog.scan(name).group_by("uri").len("rows"))
    gone = held.join(inventory.select("uri"), on="uri", how="anti")
    tests = [matcher(pattern) for pattern in spec.source]
    covered = [any(test(uri) for test in tests) for uri in gone["uri"]]
    return gone.filter(pl.Series(covered, dtype=pl.Boolean())).sort("uri")


def shards_of(work: Work, policy: Policy) -> Iterator[Shard]:
    """Cut the work into shards of one system and media kind, by number of objects and by bytes."""
    items: list[ShardItem] = []
    kept: tuple[str, str] | None = None
    size = index = 0

    def shard(system: str, kind: str) -> Shard:
        asked = {name for item in items for name in item.enrichments}
        asks = [ask for ask in work.asks if ask.media_kind == kind and ask.enrichment.name in asked]
        return Shard(index, system, MediaKind(kind), tuple(items), tuple(asks))

    for row in work.frame.iter_rows(named=True):
        key = (row["system"], row["media_kind"])
        full = len(items) >= policy.shard_size or size + row["bytes"] > policy.shard_bytes
        if kept and items and (full or key != kept):
            yield shard(*kept)
            items, size, index = [], 0, index + 1
        kept = key
        size += row["bytes"]
        items.append(ShardItem(row["uri"], row["object_version"], row["bytes"], tuple(row["enrichments"])))
    if kept and items:
        yield shard(*kept)
