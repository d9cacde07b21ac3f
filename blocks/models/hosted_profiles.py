"""What is known of hosted model ids: limits, ends and successors; and how long prompts and replies usually are."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
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
_AROUND_A_MESSAGE = 8
TOLD_BEFORE = timedelta(days=60)
"""An end that is nearer is told in every plan."""


@dataclass(frozen=True)
class HostedProfile:
    """What is known of a model id, as read on the date that its table bears.

    `ends`: the day or month of its announced shutdown, of ISO 8601, with the `successor` that the vendor names.
    `thinking_tokens`: what its reasoning may take before the reply.
    """

    ends: str | None = None
    successor: str | None = None
    thinking_tokens: int = 0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def last_day(self) -> date | None:
        """The day on which it ends; of a month, its first."""
        return None if self.ends is None else date.fromisoformat(self.ends if len(self.ends) > 7 else f"{self.ends}-01")

    def end_notice(self, model_id: str, day: date) -> str:
        """What anybody who uses it should know on a day; nothing where its end is more than 60 days off."""
        if self.last_day is None or self.last_day - day > TOLD_BEFORE:
            return ""
        use = f": set id to its successor, {self.successor}" if self.successor else ""
        left = (self.last_day - day).days
        if left < 0:
            return f"{model_id} was announced to end {self.ends}{use}"
        return f"{model_id} ends {self.ends}, in {left} days{use}"


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
    """About how many tokens a prompt has: one to four letters of Latin, one to a letter of what is written without
    spaces (Chinese, Japanese, Korean), one to two of other letters, and some around a message.
    """
    plain = sum(character < "\u0080" for character in text)
    dense = sum("\u2e80" <= character <= "\ud7ff" or character >= "\U00010000" for character in text)
    others = len(text) - plain - dense
    return math.ceil(plain / 4 + dense + others / 2) + _AROUND_A_MESSAGE
