"""A price as a list has it, and what is to be said of it on a day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from sightflow.schemas.money.rates import Rates

LIBRARY = "genai-prices"
OLD_AFTER = timedelta(days=90)
"""A price that was read longer ago is told."""


@dataclass(frozen=True)
class ListedPrice:
    """What a model id costs, where that is said, and when it was read there."""

    rates: Rates
    source: str
    read_on: date

    def notices(self, model_id: str, day: date) -> list[str]:
        """What anybody who pays this price should know on a day: that it is old, or that it changes."""
        said = []
        if day - self.read_on > OLD_AFTER:
            age = (day - self.read_on).days
            remedy = f"upgrade {LIBRARY}, or name usd_per_million_input and usd_per_million_output"
            said.append(f"the price of {model_id} was read {age} days ago, on {self.read_on}: {remedy}")
        now = self.rates.on(day)
        then = next(iter(now.later), None)
        if then and (now.input, now.output) != (then.input, then.output) and then.since:
            dear = "dearer" if then.input > now.input or then.output > now.output else "cheaper"
            said.append(
                f"the price of {model_id} holds until {then.since - timedelta(days=1)}: from ${now.input:g} in and "
                f"${now.output:g} out a million tokens to ${then.input:g} and ${then.output:g}, {dear}, "
                f"on {then.since}"
            )
        return said
