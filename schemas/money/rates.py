"""What tokens cost: US dollars for a million of them, by the length of the prompt and the day of the request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

from sightflow.schemas.money import calendar_day
from sightflow.schemas.money.usage import Usage

_MILLION = 1e6
_A_DAY = timedelta(days=1)


@dataclass(frozen=True)
class TokenRates:
    """US dollars for a million tokens of a prompt and of a reply.

    Of the prompt's tokens, `cached`: those that the provider had cached; `written`: those that it has put into its
    cache; `audio`: those of sound. None, as for the others.
    """

    input: float
    output: float
    cached: float | None = None
    written: float | None = None
    audio: float | None = None

    def dollars(self, usage: Usage) -> float:
        """US dollars for these tokens."""
        left, whole = max(0, usage.input_tokens), 0.0
        of_kinds = (
            (usage.cached_input_tokens, self.cached),
            (usage.cache_write_tokens, self.written),
            (usage.audio_input_tokens, self.audio),
        )
        for counted, rate in of_kinds:  # each token is charged once, whatever a provider says of it
            tokens = min(max(0, counted), left)
            left -= tokens
            whole += tokens * (self.input if rate is None else rate)
        return (whole + left * self.input + max(0, usage.output_tokens) * self.output) / _MILLION

    def times(self, part: float, of_cached: float) -> TokenRates:
        """The same rates times `part`, those of cached tokens times `of_cached`."""
        cached = self.input if self.cached is None else self.cached
        written, audio = (None if rate is None else rate * part for rate in (self.written, self.audio))
        return TokenRates(self.input * part, self.output * part, cached * of_cached, written, audio)

    def most(self, input_tokens: int, output_tokens: int) -> float:
        """US dollars for so many tokens, whatever kind each is of."""
        dearest = max(self.input, self.cached or 0.0, self.written or 0.0, self.audio or 0.0)
        return (input_tokens * dearest + output_tokens * self.output) / _MILLION


@dataclass(frozen=True)
class Step:
    """The rates of a request whose prompt has more than `above` tokens: of all its tokens, not of those beyond."""

    above: int
    rates: TokenRates


@dataclass(frozen=True)
class Rates:
    """What the tokens of a model cost.

    `input`, `output`, `cached`, `written`, `audio`: as in `TokenRates`, of prompts that no step is about. `batch`: what
    a batch API takes of the whole, as a part of it; None where there is none. `cached_in_batch`: what it takes of
    cached tokens, where that is another part. `steps`: of longer prompts, shortest first. `later`: what has been
    announced, each `since` the day (UTC) from which it holds, earliest first.
    """

    input: float
    output: float
    cached: float | None = None
    batch: float | None = None
    written: float | None = None
    audio: float | None = None
    cached_in_batch: float | None = None
    steps: tuple[Step, ...] = ()
    since: date | None = None
    later: tuple[Rates, ...] = ()

    def cost(self, usage: Usage, in_batch: bool = False, at: datetime | None = None) -> float:
        """US dollars for these tokens of one request, sent at a time, by default now."""
        return self.on(_day(at)).dollars(usage, in_batch)

    def bound(self, input_tokens: int, output_tokens: int, in_batch: bool = False, at: datetime | None = None) -> float:
        """US dollars that a request of at most so many tokens never exceeds, if it is sent within a day of a time, by
        default now.

        The dearest step that such a prompt can reach, nothing cached, and the dearest price of that day, the day before
        and the day after: a vendor's day need not begin when ours does. `in_batch`: with what a batch API takes off.
        """
        into, out = max(0, input_tokens), max(0, output_tokens)
        day = _day(at)
        return max(self.on(each).most(into, out, in_batch) for each in (day - _A_DAY, day, day + _A_DAY))

    def on(self, day: date) -> Rates:
        """The rates in force on a day, with what comes later."""
        begun = [rates for rates in self.later if rates.since is not None and rates.since <= day]
        return replace(begun[-1], later=self.later[len(begun) :]) if begun else self

    @property
    def base(self) -> TokenRates:
        """The rates of prompts that no step is about."""
        return TokenRates(self.input, self.output, self.cached, self.written, self.audio)

    def of_prompt(self, input_tokens: int) -> TokenRates:
        """The rates of a request with a prompt of so many tokens."""
        return next((step.rates for step in reversed(self.steps) if input_tokens > step.above), self.base)

    def dollars(self, usage: Usage, in_batch: bool = False) -> float:
        """US dollars for the tokens of one request, whatever the day."""
        return self._charged(self.of_prompt(usage.input_tokens), in_batch).dollars(usage)

    def most(self, input_tokens: int, output_tokens: int, in_batch: bool = False) -> float:
        """US dollars that a request of at most so many tokens never exceeds, whatever the day."""
        reachable = [self.base, *(step.rates for step in self.steps if step.above < input_tokens)]
        return max(self._charged(rates, in_batch).most(input_tokens, output_tokens) for rates in reachable)

    def _charged(self, rates: TokenRates, in_batch: bool) -> TokenRates:
        if not in_batch or self.batch is None:
            return rates
        return rates.times(self.batch, self.batch if self.cached_in_batch is None else self.cached_in_batch)


def _day(at: datetime | None) -> date:
    return calendar_day.today() if at is None else at.astimezone(UTC).date()


FREE = Rates(0.0, 0.0)
