"""identify: the kind of media of the objects whose names do not say it."""

from __future__ import annotations

import polars as pl

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.run.selection import Selection
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.media.media_kind import START_BYTES, media_kind
from sightflow.tasks.open import open_catalog, open_store


def identified(found: pl.DataFrame, spec: EnrichmentSpec, selection: Selection) -> pl.DataFrame:
    """The inventory with the kind of every selected object: where the name does not say it, as the catalog knows it of
    this version, else by the object's first bytes.
    """
    unnamed = selection.of(found).filter(pl.col("media_kind").is_null())
    if unnamed.is_empty():
        return found
    known, unknown = _known(open_catalog(spec), unnamed)
    kinds = pl.concat([known, _read(unknown, spec, selection.limit)])
    joined = found.join(kinds, on="uri", how="left", maintain_order="left", suffix="_read")
    either = pl.coalesce("media_kind", "media_kind_read")
    return joined.with_columns(media_kind=either).drop("media_kind_read")


def _known(catalog: Catalog, unnamed: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`uri, media_kind` of the objects that have a result at this version; `uri, failed` of the others, by URI.

    `failed`: whether they are in quarantine at this version.
    """
    objects = unnamed.lazy().select("uri", "object_version")
    version = ["uri", "object_version"]
    between = pl.col("uri").is_between(pl.lit(unnamed["uri"].min()), pl.lit(unnamed["uri"].max()))
    rows = catalog.scan("enrichments").filter(between).select(*version, "media_kind")
    known = catalog.read(rows.join(objects, on=version, how="semi").select("uri", "media_kind").unique("uri"))
    failures = catalog.scan("quarantine").filter(between).select(*version, failed=True).unique()
    unknown = objects.join(known.lazy(), on="uri", how="anti").join(failures, on=version, how="left")
    return known, catalog.read(unknown.select("uri", "failed").sort("uri"))


def _read(objects: pl.DataFrame, spec: EnrichmentSpec, limit: int | None) -> pl.DataFrame:
    """`uri, media_kind` of objects by their first bytes, in order of their URIs.

    Where a run takes `limit` objects, no more are read than it takes to find so many that an enrichment is asked of and
    that have not failed before.
    """
    asked = frozenset().union(*(enrichment.media_kinds for enrichment in spec.enrichments))
    unreadable = MediaKind.IMAGE if MediaKind.IMAGE in asked else MediaKind.VIDEO  # fetching it says why
    kinds: list[tuple[str, str]] = []
    found = 0
    starts = open_store(spec.store).read_starts(objects["uri"].to_list(), START_BYTES)
    for uri, failed, start in zip(objects["uri"], objects["failed"], starts, strict=True):
        kind = unreadable if start is None else media_kind(start)
        kinds.append((uri, str(kind)))
        found += kind in asked and not failed
        if limit is not None and found >= limit:
            break
    return pl.DataFrame(kinds, schema={"uri": pl.String(), "media_kind": pl.String()}, orient="row")
