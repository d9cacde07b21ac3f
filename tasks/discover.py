"""discover: list what the source holds, or look up what a manifest names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from sightflow.blocks.catalog.upload_manifests import Manifests
from sightflow.blocks.store.inventory import concat
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.blocks.store.patterns import source_filter
from sightflow.blocks.store.s3_inventory import S3Inventory, newest_inventory, read_inventory
from sightflow.blocks.store.uri_lists import read_uri_list
from sightflow.schemas.failure import EmptySource, Failure, SpecError
from sightflow.schemas.object_uri import ObjectUri
from sightflow.schemas.run.discovered import Discovered, Skips
from sightflow.schemas.run.selection import EVERYTHING, Selection
from sightflow.schemas.run.timing import Span, StartStep, timed
from sightflow.schemas.source_pattern import literal_prefix
from sightflow.schemas.spec import EnrichmentSpec, is_uri_list
from sightflow.schemas.tables.inventory import Inventory
from sightflow.tasks.identify import identified
from sightflow.tasks.open import open_catalog, open_store
from sightflow.tasks.retries import retried_task

_SET = re.compile(r"\[[^\]/]{2,}\]")


@retried_task()
def discover(spec: EnrichmentSpec, selection: Selection = EVERYTHING, check: bool = True) -> Discovered:
    """Return the inventory: every object that matches the source, without the catalog's own files, each with its kind.

    With a `listing` in the spec, what that says.
    With a manifest, what is left of the objects it lists, as they are now; nothing, if it has been closed.
    Unless `check`, the inventory is still to be held to its model before anything is computed: what breaks that is no
    object that the catalog knows, and so something to do.
    Raises StoreError if a bucket or manifest cannot be read, EmptySource if a source lists nothing and the policy does
    not allow that.
    """
    spans: list[Span] = []
    with timed(spans, StartStep.LISTING):
        found = _discovered(spec, selection)
        if check:
            Inventory.validate(found.inventory)
    return replace(found, spans=tuple(spans))


def _discovered(spec: EnrichmentSpec, selection: Selection) -> Discovered:
    store, skips, failed = open_store(spec.store), Skips(), dict[str, Failure]()
    in_source = source_filter(spec.source, spec.catalog)
    if selection.manifest is not None:
        uploads = Manifests(open_catalog(spec)).read(selection.manifest, skips) or []
        found = _without_markers(store.head_many(list(filter(in_source, uploads)), failed))
        return Discovered(identified(found, spec, selection), failed, skips)
    if spec.listing:
        files = filter(is_uri_list, spec.listing)
        named = [uri for address in files for uri in read_uri_list(store, address, skips)]
        parts = [read_inventory(store, report, in_source, skips) for report in s3_inventories(spec, store)]
        found = concat([*parts, _without_markers(store.head_many(list(filter(in_source, named)), failed))])
        found = found.unique("uri", keep="last", maintain_order=True)  # what was looked up is newer
    else:
        found = store.inventory(spec.source, outside=spec.catalog, skips=skips)
    if empty := _empty_sources(spec, found["uri"], failed):
        if not spec.policy.allow_empty:
            raise EmptySource(_explained(empty, spec, skips))
        skips.complete = False  # what is gone from a source cannot be told from a source that is away
    return Discovered(identified(found, spec, selection), failed, skips)


def _without_markers(found: pl.DataFrame) -> pl.DataFrame:
    """What was looked up, without the markers of folders, which a listing leaves out: consoles tell of them too."""
    return found.filter(~(pl.col("uri").str.ends_with("/") & (pl.col("bytes") == 0)))


def _empty_sources(spec: EnrichmentSpec, uris: pl.Series, failed: Mapping[str, Failure]) -> list[str]:
    """The sources that list nothing, or of which a file of URIs names nothing; one that another covers does."""
    if spec.partial:
        return [] if uris.len() or failed else list(spec.source)
    return [source for source in spec.source if not any(map(source_filter([source]), uris))]


def _explained(empty: Sequence[str], spec: EnrichmentSpec, skips: Skips) -> str:
    """What a user may do about sources that list nothing."""
    said = [f"the source {', '.join(empty)} lists no object"]
    said += [each.summary for each in skips.summary]
    if spec.listing:
        said.append(f"of what {', '.join(spec.listing)} names, none belongs to it")
    if any(f"{literal_prefix(source)}/".startswith(f"{spec.catalog}/") for source in empty):
        said.append("the catalog's own files are never part of a source")
    if any(not source.endswith("/") and "**" not in source for source in empty):
        said.append("* matches within one folder, ** in all below")
    if brackets := next((found[0] for source in empty if (found := _SET.search(source))), None):
        said.append(f"{brackets} is one character out of several, and [[]{brackets[1:]} is that text")
    return "; ".join([*said, "check `source`, or set policy.allow_empty to true if that is how it should be"])


def s3_inventories(spec: EnrichmentSpec, store: ObjectStore) -> list[S3Inventory]:
    """The S3 inventories that a spec lists.

    Raises StoreError if one is not to be had, and SpecError if they do not cover the source's buckets.
    """
    reports = [newest_inventory(store, address) for address in spec.listing if not is_uri_list(address)]
    covered = {report.bucket for report in reports}
    missing = [pattern for pattern in spec.source if ObjectUri.parse(pattern).bucket not in covered]
    if missing and not spec.partial:
        raise SpecError(
            f"`listing` holds inventories of {', '.join(sorted(covered))} and none of {', '.join(missing)}; "
            "add one, or list that source in a spec of its own"
        )
    return reports
