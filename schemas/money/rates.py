"""What tokens cost: US dollars for a million of them."""

from __future__ import annotations

from dataclasses import dataclass

from sightflow.schemas.vision import Usage


@dataclass(frozen=True)
class Rates:
    """US dollars for a million tokens of a prompt and of a reply."""

    input: float
    output: float

    def cost(self, usage: Usage) -> float:
        """US dollars for these tokens."""
        return (usage.input_tokens * self.input + usage.output_tokens * self.output) / 1e6


FREE = Rates(0.0, 0.0)


def money(dollars: float) -> str:
    """US dollars, as exact as small prices need."""
    return "free" if dollars == 0 else f"${dollars:,.2f}" if dollars >= 1 else f"${dollars:.4g}"
