"""Generation that cannot leave a list of choices, as transformers' `generate(prefix_allowed_tokens_fn=)` takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

AllowedTokens = Callable[[int, Any], Any]
"""Given a prompt's index in the batch and its tokens so far, of shape (length,), the ids that may come next."""


def within_choices(tokenized: Sequence[list[list[int]]], start: int, end: int, vocabulary: Any) -> AllowedTokens:
    """A rule that keeps each reply within its choices.

    `tokenized`: for each prompt the tokens of each choice, with `end` after them; a prompt without choices may be
    answered with any id of the `vocabulary`. `start`: how many tokens stand before the reply.
    """

    def allowed(index: int, tokens: Any) -> Any:
        if not tokenized[index]:
            return vocabulary
        reply = tokens.tolist()[start:]
        following = {c[len(reply)] for c in tokenized[index] if c[: len(reply)] == reply and len(c) > len(reply)}
        return sorted(following) or [end]

    return allowed
