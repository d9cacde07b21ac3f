"""The replies to an enrichment's prompts as its one result."""

from __future__ import annotations

from collections.abc import Sequence

from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment, RegionsResult, Result, TracksResult


def combine(enrichment: Enrichment, results: Sequence[Result]) -> Result:
    """The results of an enrichment's prompts as one: regions and tracks are joined, text and fields stand alone."""
    if not enrichment.capability.gives_places:
        (only,) = results
        return only
    if enrichment.capability is Capability.OBJECT_TRACKING:
        return TracksResult(tuple(t for r in results if isinstance(r, TracksResult) for t in r.tracks))
    return RegionsResult(tuple(g for r in results if isinstance(r, RegionsResult) for g in r.regions))
