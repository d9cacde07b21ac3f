"""The tokens of one reply, by kind, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """What one reply cost. Tokens are counted by the provider (hosted) or by the tokenizer (local).

    Of the input, `cached_input_tokens`: those that the provider had cached; `cache_write_tokens`: those that it has put
    into its cache; `audio_input_tokens`: those of sound, neither cached nor written.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    audio_input_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cost_usd + other.cost_usd,
            self.cached_input_tokens + other.cached_input_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.audio_input_tokens + other.audio_input_tokens,
        )
