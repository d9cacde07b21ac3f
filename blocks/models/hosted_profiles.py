"""What is known of hosted model ids: prices, limits, ends and successors; and how long a reply usually is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment

Known = TypeVar("Known")

_SNAPSHOT = re.compile(r"-(?:latest|(?:preview-)?\d[\d-]*)")
_CAPTION_TOKENS = {"brief": 40, "detailed": 160, "paragraph": 260}
_OTHER_TOKENS = {
    Capability.VISUAL_QUESTION_ANSWERING: 20,
    Capability.VISUAL_REASONING: 350,
    Capability.SEGMENTATION: 1200,
    Capability.STRUCTURED_EXTRACTION: 300,
}
_REGIONS_TOKENS = 300


@dataclass(frozen=True)
class HostedProfile:
    """What is known of a model id, as read on the date that its table bears.

    Prices are US dollars for a million tokens, without what a vendor takes off for cached input. `ends`: the
    date of its announced shutdown, with the `successor` that the vendor names. `thinking_tokens`: what its
    reasoning may take before the reply.
    """

    usd_per_million_input: float
    usd_per_million_output: float
    ends: str | None = None
    successor: str | None = None
    thinking_tokens: int = 0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


def of_id(table: Mapping[str, Known], model_id: str) -> Known | None:
    """The entry of an id, or of the id that it is a dated snapshot of; None if there is none."""
    if model_id in table:
        return table[model_id]
    families = [known for known in table if model_id.startswith(known) and _SNAPSHOT.fullmatch(model_id[len(known) :])]
    return table[max(families, key=len)] if families else None


def expected_tokens(enrichment: Enrichment) -> int:
    """How many tokens a reply usually has: for estimates, before anything is sent."""
    if enrichment.capability in (Capability.IMAGE_CAPTIONING, Capability.VIDEO_CAPTIONING):
        return _CAPTION_TOKENS[enrichment.detail]
    return _OTHER_TOKENS.get(enrichment.capability, _REGIONS_TOKENS)


def text_tokens(text: str) -> int:
    """About how many tokens a prompt has: a token to three characters, more than English needs, less than Chinese."""
    return len(text) // 3 + 20
