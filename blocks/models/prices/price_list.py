"""The list price of a model id, with its source and the day on which it was read. Nothing is asked of a network.

`genai-prices` knows most ids. Importing its data takes some tenths of a second, so what it says of the ids that have a
profile here is kept in `from_genai_prices.json`, which counts as long as the library is of the version that is named
there; of another version, or of another id, the library itself is asked. `own_prices.json` has what the library lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sightflow.blocks.models.hosted_profiles import of_id
from sightflow.blocks.models.prices.listed_price import LIBRARY, ListedPrice
from sightflow.schemas.money.rates import Rates

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class PriceFile:
    """A file of prices: by provider, as `genai-prices` names it, and by model id. `version`: of that library."""

    prices: Mapping[str, Mapping[str, ListedPrice]]
    version: str = ""


@cache
def listed_price(provider: str, model_id: str) -> ListedPrice | None:
    """The price of an id at a provider; None if nobody here knows it."""
    return _of_library(provider, model_id) or _of_file("own_prices.json", provider, model_id)


@cache
def endpoint_price(url: str, model_id: str) -> ListedPrice | None:
    """The price of an id at a provider's address, if the library knows both."""
    from sightflow.blocks.models.prices.library import price_at

    return price_at(url, model_id)


def configured_rates(
    known: Rates | None, into: float | None, out: float | None, cached: float | None, batch_share: float | None
) -> Rates | None:
    """The rates with what a user's settings say of them; None where neither says what tokens cost.

    A rate for tokens in or out counts for prompts of any length, from now on.
    """
    if into is not None or out is not None:
        into = known.input if into is None and known else into
        out = known.output if out is None and known else out
        if into is None or out is None:
            return None
        known = Rates(into, out, batch=known.batch if known else None)
    if known is None:
        return None
    if cached is not None:
        known = _with_cached(known, cached)
    return known if batch_share is None else replace(known, batch=batch_share, cached_in_batch=None)


def _with_cached(rates: Rates, cached: float) -> Rates:
    steps = tuple(replace(step, rates=replace(step.rates, cached=cached)) for step in rates.steps)
    later = tuple(_with_cached(each, cached) for each in rates.later)
    return replace(rates, cached=cached, steps=steps, later=later)


def _of_library(provider: str, model_id: str) -> ListedPrice | None:
    kept = read_prices("from_genai_prices.json")
    known = kept.prices.get(provider)
    if known is None:  # a provider that the library does not have
        return None
    if kept.version == _library_version() and (price := of_id(known, model_id)):
        return price
    from sightflow.blocks.models.prices.library import price_of

    return price_of(provider, model_id) or of_id(known, model_id)


def _of_file(name: str, provider: str, model_id: str) -> ListedPrice | None:
    return of_id(read_prices(name).prices.get(provider, {}), model_id)


@cache
def read_prices(name: str) -> PriceFile:
    """One of the files of prices beside this module."""
    from pydantic import TypeAdapter

    return TypeAdapter(PriceFile).validate_json((_FOLDER / name).read_bytes())


@cache
def _library_version() -> str:
    try:
        return version(LIBRARY)
    except PackageNotFoundError:
        return ""
