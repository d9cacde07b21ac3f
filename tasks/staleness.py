"""Why rows are stale: what differs between what they were made by and what is asked now."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.models.registry import open_model
from sightflow.schemas.extraction.columns import described_change
from sightflow.schemas.extraction.json_schema import UnsupportedSchema, normalized
from sightflow.schemas.run.plan import ResolvedEnrichment
from sightflow.schemas.spec import EnrichmentSpec

_MOST_KINDS = 20


def reasons_of_staleness(
    catalog: Catalog, version: int | None, resolved: ResolvedEnrichment, spec: EnrichmentSpec
) -> list[str]:
    """What has changed since the stale rows of an enrichment were computed, in words, the commonest first.

    Told by what the rows hold themselves, and by their recipe; what they hold is data, and shown at most in part.
    """
    enrichment = resolved.enrichment
    of_enrichment = (pl.col("enrichment") == enrichment.name) & (pl.col("media_kind") == str(resolved.media_kind))
    stale = catalog.scan("enrichments", version).filter(of_enrichment & (pl.col("recipe") != resolved.recipe))
    made_by = ["recipe", "parameters", "system", "model_id"]
    kinds = catalog.read(stale.group_by(made_by).len()).sort("len", *made_by, descending=True).head(_MOST_KINDS)
    reasons = (_reason(row, resolved, spec) for row in kinds.iter_rows(named=True))
    return list(dict.fromkeys(reasons))


def _reason(row: dict[str, Any], resolved: ResolvedEnrichment, spec: EnrichmentSpec) -> str:
    system = resolved.systems[0]
    if changed := _changed_parameters(row["parameters"], resolved.enrichment.parameters):
        return changed
    entry = spec.model_entry(system)
    model = open_model(*entry)
    if row["system"] != system:
        return f"answered by {row['system'][:60]}, and {system} is asked now"
    if row["model_id"] != model.ref.id:
        return f"answered by {row['model_id'][:80]}, and {model.ref.id} is asked now"
    switched = {**entry.settings, "enforce_reply_form": not model.enforce_reply_form}
    otherwise = open_model(*entry._replace(settings=switched))
    if row["recipe"] == otherwise.recipe(resolved.enrichment, resolved.media_kind):
        then, now = ("not ", "") if model.enforce_reply_form else ("", "not ")
        return f"replies were {then}held to their form, and are {now}now (enforce_reply_form)"
    return "the prompt, the weights, the settings of the model or the form of rows changed"


def _changed_parameters(before: str, now: dict[str, Any]) -> str:
    """What was asked otherwise, or nothing."""
    try:
        then = json.loads(before)
        changed = sorted(key for key in {*then, *now} if then.get(key) != now.get(key))
        if changed == ["schema"] and "schema" in then:
            return f"the schema changed: {described_change(normalized(then['schema']), now['schema'])[:200]}"
    except (ValueError, TypeError, AttributeError, RecursionError, UnsupportedSchema):
        return "what was asked changed"
    return f"{', '.join(changed)[:200]} changed" if changed else ""
