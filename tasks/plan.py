"""plan: what is new, changed or stale; nothing else is ever computed again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence, Set
from dataclasses import replace

import polars as pl

from sightflow.blocks.catalog.batch_log import BatchLog
from sightflow.blocks.catalog.catalog import Catalog, TableName
from sightflow.blocks.store.inventory import kind_by_name
from sightflow.blocks.store.patterns import source_filter
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Cause
from sightflow.schemas.money.estimate import Estimate
from sightflow.schemas.policy import Policy
from sightflow.schemas.run.discovered import Discovered
from sightflow.schemas.run.plan import EnrichmentPlan, ResolvedEnrichment, Route, RoutedEnrichment, RunPlan, Status
from sightflow.schemas.run.selection import EVERYTHING, Selection
from sightflow.schemas.run.timing import Span, StartStep, timed
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.tables.frames import storable
from sightflow.schemas.tables.quarantine import FailedItem
from sightflow.tasks.money.estimate import Estimator
from sightflow.tasks.open import open_catalog
from sightflow.tasks.retries import retried_task
from sightflow.tasks.route import resolve_enrichments
from sightflow.tasks.staleness import reasons_of_staleness

_PERMANENT = [cause.value for cause in Cause if not cause.transient]
_STATUS = pl.Enum([status.value for status in Status])
_NO_ORPHANS = pl.DataFrame(schema=dict.fromkeys(("uri", "enrichment", "fingerprint"), pl.String()))


@retried_task()
def plan(
    discovered: Discovered,
    spec: EnrichmentSpec,
    selection: Selection = EVERYTHING,
    routed: Sequence[RoutedEnrichment] | None = None,
) -> RunPlan:
    """Compare what was found with the catalog on what determines each result; return what is left to do.

    `routed`: what `resolve_enrichments` has just said of the spec, if it was asked already.

    Reads four columns of the catalog, more where rows are stale, to say why, and of media the first bytes of a sample,
    where what they cost depends on their size; the catalog streams past the inventory, so that memory grows with the
    inventory alone. Raises SpecError if an enrichment cannot be served.
    """
    spans: list[Span] = []
    with timed(spans, StartStep.PLANNING):
        made = _plan(discovered, spec, selection, resolve_enrichments(spec) if routed is None else routed)
    return replace(made, spans=(*discovered.spans, *spans))


def _plan(
    discovered: Discovered, spec: EnrichmentSpec, selection: Selection, resolved_routes: Sequence[RoutedEnrichment]
) -> RunPlan:
    catalog, inventory = open_catalog(spec), discovered.inventory
    routed = _without_unlisted_kinds(resolved_routes, inventory)
    partial = selection.manifest is not None or spec.partial or not discovered.skips.complete
    objects = selection.of(inventory).with_row_index("object_index")
    # Read before the rows: what is collected in this moment is then among these or those, and asked by neither.
    under_way = catalog.read(_matching_rows(BatchLog(catalog).under_way(), objects, routed))
    enrichments, version = catalog.scan_with_version("enrichments")
    published = catalog.read(_matching_rows(enrichments, objects, routed))
    quarantined = catalog.read(_matching_rows(catalog.scan("quarantine"), objects, routed, "cause", "system"))
    counted, pending, settled = [], [], []
    for index, (resolved, route) in enumerate(routed):
        of_enrichment = pl.col("enrichment_index") == index
        failed = quarantined.filter(of_enrichment)
        asked = under_way.filter(of_enrichment & pl.col("same_version") & pl.col("same_recipe"))
        statuses = _statuses(objects, published.filter(of_enrichment), failed, asked, resolved)
        to_compute = _to_compute(statuses, failed, spec.policy, selection)
        done = failed.join(statuses.filter(pl.col("status") == Status.UNCHANGED.value), on="object_index", how="semi")
        settled.append(done.select("object_index", enrichment=pl.lit(resolved.enrichment.name, pl.String())))
        counted.append((_counts(statuses), resolved, route))
        pending.append(to_compute.select("object_index", "has_row", enrichment_index=pl.lit(index, pl.UInt32())))
    if selection.limit is not None:
        pending = _of_first_objects(pending, objects, selection.limit)
    estimator = Estimator(spec, catalog, objects)
    asked_of = [(route.candidates[0].system, resolved.media_kind, resolved.delivery.by) for resolved, route in routed]
    together = Counter(asked for asked, part in zip(asked_of, pending, strict=True) if part.height)
    estimates = [
        estimator.of(resolved, route, part, together[asked] if resolved.delivery.by == "direct" else 1)
        for (resolved, route), part, asked in zip(routed, pending, asked_of, strict=True)
    ]
    plans = [
        _enrichment_plan(*each, estimate, _why_stale(catalog, version, *each[:2], spec))
        for each, estimate in zip(counted, estimates, strict=True)
    ]
    kinds = {resolved.media_kind for resolved, _ in routed}
    return RunPlan(
        frame=_frame(pl.concat(pending), objects, routed),
        orphaned_rows=_NO_ORPHANS if partial else _orphaned(catalog, "enrichments", discovered, spec),
        orphaned_quarantine=_NO_ORPHANS if partial else _orphaned(catalog, "quarantine", discovered, spec),
        resolved_enrichments=tuple(resolved for resolved, _ in routed),
        plans=tuple(plans),
        version=version,
        objects=inventory.height,
        not_asked=_not_asked(inventory, kinds),
        settled=objects.join(pl.concat(settled), on="object_index").select("uri", "enrichment"),
        failed_lookups=_failed_lookups(discovered, routed),
        skipped=discovered.skips.summary,
    )


def _failed_lookups(discovered: Discovered, routed: Sequence[RoutedEnrichment]) -> tuple[FailedItem, ...]:
    """What was named and could not be looked up, for all that would have been asked of it."""
    failed = {storable(uri) or "": failure for uri, failure in discovered.failed.items()}
    kinds = {resolved.media_kind for resolved, _ in routed}
    unnamed = MediaKind.IMAGE if MediaKind.IMAGE in kinds else MediaKind.VIDEO
    return tuple(
        FailedItem(
            uri=uri,
            enrichment=resolved.enrichment.name,
            fingerprint="",
            failure=failed[uri],
            capability=resolved.enrichment.capability,
            recipe=resolved.recipe,
            system=resolved.systems[0],
        )
        for uri in failed
        for resolved, _ in routed
        if resolved.media_kind is (kind_by_name(uri) or unnamed)
    )


def _matching_rows(
    table: pl.LazyFrame, objects: pl.DataFrame, routed: Sequence[RoutedEnrichment], *more: str
) -> pl.LazyFrame:
    """The rows of a table that are of one of these objects and enrichments: the indices of both, whether they are of
    the same version and recipe, and `more` columns. No string that could be told by a number is kept.
    """
    enrichments = pl.LazyFrame(
        [
            (index, resolved.enrichment.name, str(resolved.media_kind), resolved.recipe)
            for index, (resolved, _) in enumerate(routed)
        ],
        schema={
            "enrichment_index": pl.UInt32(),
            "enrichment": pl.String(),
            "media_kind": pl.String(),
            "current_recipe": pl.String(),
        },
        orient="row",
    )
    listed = objects.lazy().select("object_index", "uri", "media_kind", listed_version="object_version")
    names = [resolved.enrichment.name for resolved, _ in routed]
    return (
        table.filter(pl.col("enrichment").is_in(names) & _within(objects))
        .select("uri", "enrichment", "object_version", "recipe", *more)
        .join(listed, on="uri")
        .join(enrichments, on=["enrichment", "media_kind"])
        .select(
            "object_index",
            "enrichment_index",
            *more,
            same_version=pl.col("object_version") == pl.col("listed_version"),
            same_recipe=pl.col("recipe") == pl.col("current_recipe"),
        )
    )


def _of_first_objects(pending: list[pl.DataFrame], objects: pl.DataFrame, limit: int) -> list[pl.DataFrame]:
    """What is pending for the first `limit` objects, by URI, that have anything pending."""
    unfinished = pl.concat(pending).select("object_index").unique()
    first = (
        objects.select("uri", "object_index").join(unfinished, on="object_index", how="semi").sort("uri").head(limit)
    )
    return [part.join(first, on="object_index", how="semi") for part in pending]


def _frame(pending: pl.DataFrame, objects: pl.DataFrame, routed: Sequence[RoutedEnrichment]) -> pl.DataFrame:
    """What is left. All that is asked of one object of one system in one way goes together: it is fetched and decoded
    once.
    """
    enrichments = pl.DataFrame(
        [
            (index, resolved.systems[0], resolved.delivery.by, resolved.enrichment.name)
            for index, (resolved, _) in enumerate(routed)
        ],
        schema={
            "enrichment_index": pl.UInt32(),
            "system": pl.String(),
            "delivery": pl.String(),
            "enrichment": pl.String(),
        },
        orient="row",
    )
    together = (
        pending.lazy().join(enrichments.lazy(), on="enrichment_index").group_by("object_index", "system", "delivery")
    )
    replaced = pl.col("enrichment").filter("has_row").sort()
    return (
        together.agg(enrichments=pl.col("enrichment").sort(), replaced=replaced)
        .join(objects.lazy().select("object_index", "uri", "object_version", "bytes", "media_kind"), on="object_index")
        .select("system", "delivery", "media_kind", "uri", "object_version", "bytes", "enrichments", "replaced")
        .sort("system", "delivery", "media_kind", "uri")
        .collect(engine="streaming")
    )


def _within(inventory: pl.DataFrame) -> pl.Expr:
    """Between the first and the last of these URIs: by that the catalog's files are told apart without being read."""
    if inventory.is_empty():
        return pl.lit(False)
    return pl.col("uri").is_between(pl.lit(inventory["uri"].min()), pl.lit(inventory["uri"].max()))


def _not_asked(inventory: pl.DataFrame, asked: Collection[MediaKind]) -> dict[MediaKind, int]:
    """How many listed objects are of each kind of media that no enrichment is asked of."""
    counts = inventory["media_kind"].drop_nulls().value_counts()
    return {MediaKind(kind): count for kind, count in sorted(counts.iter_rows()) if kind not in asked}


def _to_compute(
    statuses: pl.DataFrame, quarantined: pl.DataFrame, policy: Policy, selection: Selection
) -> pl.DataFrame:
    """What is computed of an enrichment: by the policy, or in a replay what stands in quarantine."""
    if not selection.replay:
        return statuses.filter(pl.col("status").is_in(_computed_statuses(policy)))
    if selection.causes:
        quarantined = quarantined.filter(pl.col("cause").is_in([cause.value for cause in selection.causes]))
    if selection.system:
        quarantined = quarantined.filter(pl.col("system") == selection.system)
    not_done = statuses.filter(~pl.col("status").is_in([Status.UNCHANGED.value, Status.UNDER_WAY.value]))
    return not_done.join(quarantined, on="object_index", how="semi")


def _without_unlisted_kinds(routed: Sequence[RoutedEnrichment], inventory: pl.DataFrame) -> list[RoutedEnrichment]:
    """Leave out kinds of media that were not listed, where an enrichment is asked of another kind that was."""
    listed = set(inventory["media_kind"].unique())
    served = {resolved.enrichment.name for resolved, _ in routed if resolved.media_kind in listed}
    return [
        each for each in routed if each.resolved.media_kind in listed or each.resolved.enrichment.name not in served
    ]


def _statuses(
    objects: pl.DataFrame,
    published: pl.DataFrame,
    quarantined: pl.DataFrame,
    under_way: pl.DataFrame,
    resolved: ResolvedEnrichment,
) -> pl.DataFrame:
    """The objects that an enrichment is asked of, by index, each with its `status`."""
    permanent = pl.col("cause").is_in(_PERMANENT) & pl.col("same_recipe") & pl.col("same_version")
    status = (
        pl.when(pl.col("same_version") & pl.col("same_recipe"))
        .then(pl.lit(Status.UNCHANGED.value, _STATUS))
        .when(pl.col("under_way"))
        .then(pl.lit(Status.UNDER_WAY.value, _STATUS))
        .when(pl.col("failed_for_good"))
        .then(pl.lit(Status.QUARANTINED.value, _STATUS))
        .when(pl.col("same_version").is_null())
        .then(pl.lit(Status.NEW.value, _STATUS))
        .when(pl.col("same_version"))
        .then(pl.lit(Status.STALE.value, _STATUS))
        .otherwise(pl.lit(Status.CHANGED.value, _STATUS))
    )
    failed_for_good = quarantined.lazy().filter(permanent).select("object_index", failed_for_good=True)
    return (
        objects.lazy()
        .filter(pl.col("media_kind") == str(resolved.media_kind))
        .select("object_index")
        .join(published.lazy().select("object_index", "same_version", "same_recipe"), on="object_index", how="left")
        .join(failed_for_good, on="object_index", how="left")
        .join(under_way.lazy().select("object_index", under_way=True), on="object_index", how="left")
        .select("object_index", status=status, has_row=pl.col("same_version").is_not_null())
        .collect()
    )


def _computed_statuses(policy: Policy) -> list[str]:
    statuses = [Status.NEW.value, Status.CHANGED.value]
    return [*statuses, Status.STALE.value] if policy.stale == "recompute" else statuses


def _counts(statuses: pl.DataFrame) -> dict[Status, int]:
    found = dict(statuses["status"].value_counts().iter_rows())
    return {status: int(found.get(status.value, 0)) for status in Status}


def _enrichment_plan(
    counts: dict[Status, int],
    resolved: ResolvedEnrichment,
    route: Route,
    estimate: Estimate,
    stale_because: list[str],
) -> EnrichmentPlan:
    if resolved.delivery.by == "batch":  # nobody knows when a vendor answers
        by_batch = {"price": estimate.price * resolved.delivery.price_share, "seconds": None}
        estimate = estimate.model_copy(update=by_batch)
    return EnrichmentPlan(
        enrichment=resolved.enrichment.name,
        capability=resolved.enrichment.capability,
        media_kind=resolved.media_kind,
        route=route,
        recipe=resolved.recipe,
        counts=counts,
        to_compute=estimate.items,
        stale_because=stale_because,
        price=estimate.price,
        estimate=estimate,
        delivery=resolved.delivery,
    )


def _why_stale(
    catalog: Catalog, version: int | None, counts: dict[Status, int], resolved: ResolvedEnrichment, spec: EnrichmentSpec
) -> list[str]:
    return reasons_of_staleness(catalog, version, resolved, spec) if counts[Status.STALE] else []


def _orphaned(catalog: Catalog, name: TableName, discovered: Discovered, spec: EnrichmentSpec) -> pl.DataFrame:
    """The rows of a table, by key and fingerprint, that the source's patterns cover and that are no longer listed.

    Nothing counts as gone that lies where nothing could be listed.
    """
    listed = discovered.inventory.lazy().select("uri")
    missing = catalog.read(
        catalog.scan(name).select("uri", "enrichment", "fingerprint").join(listed, on="uri", how="anti")
    )
    in_source, unlisted = source_filter(spec.source), discovered.skips.unlisted
    gone = [uri for uri in missing["uri"].unique() if in_source(uri) and not (unlisted and _is_below(uri, unlisted))]
    return missing.filter(pl.col("uri").is_in(gone)).sort("uri", "enrichment")


def _is_below(uri: str, places: Set[str]) -> bool:
    """Whether a URI is one of these places or lies below one."""
    slashes = (place for place, character in enumerate(uri) if character == "/")
    return uri in places or any(uri[:slash] in places for slash in slashes)
