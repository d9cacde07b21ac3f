"""What tokens cost at one time: US dollars for a million of them."""

from __future__ import annotations

from dataclasses import dataclass

from sightflow.schemas.vision import Usage


@dataclass(frozen=True)
class Rates:
    """US dollars for a million tokens of a prompt and of a reply.

    `cached`: for those tokens of a prompt that the provider had cached; None, as for the others. `batch`: what a batch
    API takes of the whole, as a part of it; None where there is none.
    """

    input: float
    output: float
    cached: float | None = None
    batch: float | None = None

    def cost(self, usage: Usage, in_batch: bool = False) -> float:
        """US dollars for these tokens, of which the cached ones are a part of those that went in."""
        cached_rate = self.input if self.cached is None else self.cached
        fresh = max(0, usage.input_tokens - usage.cached_input_tokens)
        whole = fresh * self.input + usage.cached_input_tokens * cached_rate + usage.output_tokens * self.output
        return whole / 1e6 * (1.0 if self.batch is None or not in_batch else self.batch)


FREE = Rates(0.0, 0.0)


def money(dollars: float) -> str:
    """US dollars, as exact as small prices need."""
    return "free" if dollars == 0 else f"${dollars:,.2f}" if dollars >= 1 else f"${dollars:.4g}"
