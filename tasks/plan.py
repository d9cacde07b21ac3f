"""plan: what is new, changed or stale; nothing else is ever computed again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from sightflow.blocks.catalog.catalog import Catalog, TableName
from sightflow.blocks.store.patterns import matcher
from sightflow.schemas.failure import Cause
from sightflow.schemas.run.plan import EnrichmentPlan, ResolvedEnrichment, Route, RunPlan, Status
from sightflow.schemas.run.selection import EVERYTHING, Selection
from sightflow.schemas.spec import EnrichmentSpec, Policy
from sightflow.tasks.discover import open_catalog
from sightflow.tasks.route import resolve_enrichments

ResolvedRoutes = Sequence[tuple[ResolvedEnrichment, Route]]

_PERMANENT = [cause.value for cause in Cause if not cause.transient]
_STATUS = pl.Enum([status.value for status in Status])
_NOTHING_GONE = pl.DataFrame(schema={"uri": pl.String(), "rows": pl.UInt32()})


@task(retries=2, retry_delay_seconds=exponential_backoff(2), cache_policy=NO_CACHE, persist_result=False)
def plan(inventory: pl.DataFrame, spec: EnrichmentSpec, selection: Selection = EVERYTHING) -> RunPlan:
    """Compare the inventory with the catalog on what determines each result; return what is left to do.

    Reads four columns of the catalog and no media; the catalog streams past the inventory, so that memory grows with
    the inventory alone. Raises SpecError if an enrichment cannot be served.
    """
    catalog = open_catalog(spec)
    resolved_enrichments = _of_what_there_is(resolve_enrichments(spec), inventory)
    partial = selection.manifest is not None or spec.partial
    chosen = selected(inventory, selection).with_row_index("object")
    known = catalog.read(_met(catalog.scan("enrichments"), chosen, resolved_enrichments))
    cases = catalog.read(_met(catalog.scan("quarantine"), chosen, resolved_enrichments, "cause", "system"))
    counted, pending = [], []
    for number, (resolved, route) in enumerate(resolved_enrichments):
        mine = pl.col("ask") == number
        statuses = _statuses(chosen, known.filter(mine), cases.filter(mine), resolved)
        todo = _todo(statuses, cases.filter(mine), spec.policy, selection)
        counted.append((_counts(statuses), resolved, route))
        pending.append(todo.select("object", ask=pl.lit(number, pl.UInt32())))
    if selection.limit is not None:
        objects = pl.concat(pending).select("object").unique()
        first = chosen.select("uri", "object").join(objects, on="object", how="semi").sort("uri").head(selection.limit)
        pending = [part.join(first, on="object", how="semi") for part in pending]
    plans = [_counted(*each, part.height) for each, part in zip(counted, pending, strict=True)]
    return RunPlan(
        frame=_frame(pl.concat(pending), chosen, resolved_enrichments),
        orphans=_NOTHING_GONE if partial else _gone(catalog, "enrichments", inventory, spec),
        closed=(_NOTHING_GONE if partial else _gone(catalog, "quarantine", inventory, spec)).select("uri"),
        resolved_enrichments=tuple(resolved for resolved, _ in resolved_enrichments),
        plans=tuple(plans),
        objects=inventory.height,
        not_asked=inventory.filter(
            ~pl.col("media_kind").is_in(list({str(resolved.media_kind) for resolved, _ in resolved_enrichments}))
        ).height,
    )


def _met(table: pl.LazyFrame, chosen: pl.DataFrame, resolved_enrichments: ResolvedRoutes, *more: str) -> pl.LazyFrame:
    """The rows of a table that answer an ask of a chosen object: the numbers of both, whether they are of the same
    version and recipe, and `more` columns. No string that could be told by a number is kept.
    """
    asked = pl.LazyFrame(
        [
            (n, resolved.enrichment.name, str(resolved.media_kind), resolved.recipe)
            for n, (resolved, _) in enumerate(resolved_enrichments)
        ],
        schema={"ask": pl.UInt32(), "enrichment": pl.String(), "media_kind": pl.String(), "asked": pl.String()},
        orient="row",
    )
    objects = chosen.lazy().select("object", "uri", "media_kind", listed="object_version")
    names = [resolved.enrichment.name for resolved, _ in resolved_enrichments]
    return (
        table.filter(pl.col("enrichment").is_in(names) & _within(chosen))
        .select("uri", "enrichment", "object_version", "recipe", *more)
        .join(objects, on="uri")
        .join(asked, on=["enrichment", "media_kind"])
        .select(
            "object",
            "ask",
            *more,
            same_version=pl.col("object_version") == pl.col("listed"),
            same_recipe=pl.col("recipe") == pl.col("asked"),
        )
    )


def _frame(pending: pl.DataFrame, chosen: pl.DataFrame, resolved_enrichments: ResolvedRoutes) -> pl.DataFrame:
    """What is left. All that is asked of one object of one system goes together: it is fetched and decoded once."""
    answered = pl.DataFrame(
        [(n, resolved.systems[0], resolved.enrichment.name) for n, (resolved, _) in enumerate(resolved_enrichments)],
        schema={"ask": pl.UInt32(), "system": pl.String(), "enrichment": pl.String()},
        orient="row",
    )
    together = pending.lazy().join(answered.lazy(), on="ask").group_by("object", "system")
    return (
        together.agg(enrichments=pl.col("enrichment").sort())
        .join(chosen.lazy().select("object", "uri", "object_version", "bytes", "media_kind"), on="object")
        .select("system", "media_kind", "uri", "object_version", "bytes", "enrichments")
        .sort("system", "media_kind", "uri")
        .collect(engine="streaming")
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


def _todo(statuses: pl.DataFrame, cases: pl.DataFrame, policy: Policy, selection: Selection) -> pl.DataFrame:
    """What is computed of an enrichment: by the policy, or in a replay what stands in quarantine."""
    if not selection.replay:
        return statuses.filter(pl.col("status").is_in(_wanted(policy)))
    if selection.causes:
        cases = cases.filter(pl.col("cause").is_in([cause.value for cause in selection.causes]))
    if selection.system:
        cases = cases.filter(pl.col("system") == selection.system)
    return statuses.filter(pl.col("status") != Status.UNCHANGED.value).join(cases, on="object", how="semi")


def _of_what_there_is(resolved_enrichments: ResolvedRoutes, inventory: pl.DataFrame) -> ResolvedRoutes:
    """Leave out kinds of media that were not listed, where an enrichment is asked of another kind that was."""
    listed = set(inventory["media_kind"].unique())
    served = {resolved.enrichment.name for resolved, _ in resolved_enrichments if resolved.media_kind in listed}
    return tuple((a, r) for a, r in resolved_enrichments if a.media_kind in listed or a.enrichment.name not in served)


def _statuses(
    chosen: pl.DataFrame, known: pl.DataFrame, cases: pl.DataFrame, resolved: ResolvedEnrichment
) -> pl.DataFrame:
    """The objects an enrichment is asked of, by number, each with its `status`."""
    refused = cases.filter(pl.col("cause").is_in(_PERMANENT) & pl.col("same_recipe") & pl.col("same_version"))
    status = (
        pl.when(pl.col("same_version") & pl.col("same_recipe"))
        .then(pl.lit(Status.UNCHANGED.value, _STATUS))
        .when(pl.col("hopeless"))
        .then(pl.lit(Status.QUARANTINED.value, _STATUS))
        .when(pl.col("same_version").is_null())
        .then(pl.lit(Status.NEW.value, _STATUS))
        .when(pl.col("same_version"))
        .then(pl.lit(Status.STALE.value, _STATUS))
        .otherwise(pl.lit(Status.CHANGED.value, _STATUS))
    )
    return (
        chosen.lazy()
        .filter(pl.col("media_kind") == str(resolved.media_kind))
        .select("object")
        .join(known.lazy().select("object", "same_version", "same_recipe"), on="object", how="left")
        .join(refused.lazy().select("object", hopeless=True), on="object", how="left")
        .select("object", status=status)
        .collect()
    )


def _wanted(policy: Policy) -> list[str]:
    """The statuses that are computed."""
    wanted = [Status.NEW.value, Status.CHANGED.value]
    return [*wanted, Status.STALE.value] if policy.stale == "recompute" else wanted


def _counts(statuses: pl.DataFrame) -> dict[Status, int]:
    found = dict(statuses["status"].value_counts().iter_rows())
    return {status: int(found.get(status.value, 0)) for status in Status}


def _counted(counts: dict[Status, int], resolved: ResolvedEnrichment, route: Route, to_compute: int) -> EnrichmentPlan:
    return EnrichmentPlan(
        enrichment=resolved.enrichment.name,
        capability=resolved.enrichment.capability,
        media_kind=resolved.media_kind,
        route=route,
        recipe=resolved.recipe,
        counts=counts,
        to_compute=to_compute,
        price=to_compute * route.candidates[0].price_per_item,
    )


def _gone(catalog: Catalog, name: TableName, inventory: pl.DataFrame, spec: EnrichmentSpec) -> pl.DataFrame:
    """The `uri`s of a table that the source's patterns cover and the listing no longer holds, with their `rows`."""
    listed = inventory.lazy().select("uri")
    held = catalog.scan(name).select("uri").join(listed, on="uri", how="anti")
    gone = catalog.read(held.group_by("uri").len("rows"))
    tests = [matcher(pattern) for pattern in spec.source]
    covered = [any(test(uri) for test in tests) for uri in gone["uri"]]
    return gone.filter(pl.Series(covered, dtype=pl.Boolean())).sort("uri")
