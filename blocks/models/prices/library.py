"""Prices as `genai-prices` has them (https://github.com/pydantic/genai-prices), never those it would fetch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from sightflow.blocks.models.prices.listed_price import LIBRARY, ListedPrice
from sightflow.schemas.money.rates import Rates, Step, TokenRates

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

_KEYS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached": "cache_read_mtok",
    "written": "cache_write_mtok",
    "audio": "input_audio_mtok",
}
_BATCH = {"processing": "batch"}
_READ = re.compile(r"\b(?:verified|checked|updated)(?: on)? (20\d\d-\d\d-\d\d)\b", re.IGNORECASE)
_FAR = date(9999, 1, 1)


def price_of(provider: str, model_id: str) -> ListedPrice | None:
    """The price of an id at a provider, by its name; None if the library does not have it."""
    return _found(model_id, provider, None)


def price_at(url: str, model_id: str) -> ListedPrice | None:
    """The price of an id at the provider that this address belongs to; None if the library does not have it."""
    return _found(model_id, None, url)


def _found(model_id: str, provider: str | None, url: str | None) -> ListedPrice | None:
    from genai_prices.data_snapshot import get_snapshot

    try:
        _, model = get_snapshot().find_provider_model(model_id, None, provider, url)
    except LookupError:
        return None
    return converted(model)


def converted(model: ModelInfo) -> ListedPrice | None:
    """What the library says of a model, as a price list; None if it has no price of tokens both in and out."""
    starts = _starts(model)
    periods = [_rates(model, start, until) for start, until in zip(starts, [*starts[1:], None], strict=True)]
    complete = [rates for rates in periods if rates is not None]
    if len(complete) < len(periods):
        return None
    first, *later = complete
    rates = replace(first, since=None, later=tuple(later))
    comments = model.price_comments or ""
    source = re.search(r"https?://[^\s,;]+[^\s,;.]", comments)
    read_on = max(_read_days(comments), default=_last_read())
    return ListedPrice(rates, f"{LIBRARY}, of {source[0]}" if source else LIBRARY, read_on)


def _starts(model: ModelInfo) -> list[date | None]:
    """The days from which a price holds; None: the first of them, always."""
    if not isinstance(model.prices, list):
        return [None]
    given = (getattr(each.constraint, "start_date", None) for each in model.prices)
    return [None, *sorted({day for day in given if day is not None})]


def _rates(model: ModelInfo, start: date | None, until: date | None) -> Rates | None:
    """The price that holds in a period, with that of a batch API at its end: a batch price may be known from a later
    day than the other.
    """
    last = (until or _FAR) - timedelta(days=1)
    noon = datetime.combine(last, time(12), UTC)
    usual, batch = model.get_prices(noon), model.get_prices(noon, _BATCH)
    base = _at(usual, 0)
    if base is None:
        return None
    steps = tuple(Step(above, rates) for above in _thresholds(usual) if (rates := _at(usual, above + 1)) is not None)
    share, of_cached = _shares(base, _at(batch, 0)) if batch != usual else (None, None)
    own = {name: getattr(base, name) for name in _KEYS}
    return Rates(**own, batch=share, cached_in_batch=of_cached, steps=steps, since=start)


def _shares(usual: TokenRates, batch: TokenRates | None) -> tuple[float | None, float | None]:
    """What a batch takes of the usual rates, by the larger of the two; of cached tokens, if that is another part."""
    if batch is None or not usual.input or not usual.output:
        return None, None
    share = max(batch.input / usual.input, batch.output / usual.output)
    if not usual.cached or batch.cached is None:
        return share, None
    of_cached = batch.cached / usual.cached
    return share, None if abs(of_cached - share) < 1e-9 else of_cached


def _at(price: ModelPrice, tokens: int) -> TokenRates | None:
    rates = {name: _of_prompt(getattr(price, key), tokens) for name, key in _KEYS.items()}
    return None if rates["input"] is None or rates["output"] is None else TokenRates(**rates)  # type: ignore[arg-type]


def _of_prompt(price: Any, tokens: int) -> float | None:
    """One rate for a prompt of so many tokens: a number, or one by steps."""
    if price is None:
        return None
    base = getattr(price, "base", price)
    return float(next((tier.price for tier in reversed(_tiers(price)) if tokens > tier.start), base))


def _tiers(price: Any) -> list[Any]:
    return list(getattr(price, "tiers", ()))


def _thresholds(price: ModelPrice) -> list[int]:
    return sorted({tier.start for key in _KEYS.values() for tier in _tiers(getattr(price, key))})


@cache
def _last_read() -> date:
    """The last day on which any price of the library's was read: of those that do not say when they were."""
    from genai_prices.data_snapshot import get_snapshot

    models = [model for provider in get_snapshot().providers for model in provider.models]
    return max(day for model in models for day in _read_days(model.price_comments or ""))


def _read_days(comments: str) -> Iterator[date]:
    """The days on which a price was read, as the library's comments tell it, e.g. `verified on 2026-10-12`."""
    for found in _READ.findall(comments):
        try:
            yield date.fromisoformat(found)
        except ValueError:
            continue
