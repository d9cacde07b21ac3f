"""Reading a reply that is text: a caption, an answer, or one of the choices."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sightflow.blocks.models.contract import ReplyError
from sightflow.schemas.enrichment import TextResult


def plain_text(text: str, choices: Sequence[str] = ()) -> TextResult:
    """A reply as text; with choices, matched to one of them without regard to case and punctuation.

    Raises ReplyError if it is empty, or matches none of the choices.
    """
    stripped = text.strip()
    if not stripped:
        raise ReplyError("the reply is empty")
    if not choices or stripped in choices:
        return TextResult(stripped)
    bare = stripped.strip(" .!\"'`").casefold()
    for choice in choices:
        if choice.strip().casefold() == bare:
            return TextResult(choice)
    raise ReplyError(f"the answer {stripped[:80]!r} is none of the choices {list(choices)}")


def unwrap_choice(text: str) -> str:
    """The choice in a structured reply `{"answer": ...}` or `"..."`, or the text as it stands."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, dict):
        value = value.get("answer")
    return value if isinstance(value, str) else text
