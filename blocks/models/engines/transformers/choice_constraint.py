"""Generation that cannot leave a list of choices, as transformers' `generate(prefix_allowed_tokens_fn=)` takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

AllowedTokens = Callable[[int, Any], Any]
"""Given a unit's place in the batch and its tokens so far, of shape (length,), the ids that may come next."""


def within_choices(spelled: Sequence[list[list[int]]], start: int, end: int, everything: Any) -> AllowedTokens:
    """A rule that keeps each unit within its choices.

    `spelled`: for each unit the tokens of each choice, with `end` after them; a unit without choices may say
    `everything`, the ids of the vocabulary. `start`: how many tokens stand before the reply.
    """

    def allowed(place: int, tokens: Any) -> Any:
        if not spelled[place]:
            return everything
        said = tokens.tolist()[start:]
        following = {c[len(said)] for c in spelled[place] if c[: len(said)] == said and len(c) > len(said)}
        return sorted(following) or [end]

    return allowed
