"""Write what `genai-prices` says of the ids that have a profile here into the file that is read in its place.

    python -m sightflow.infra.price_snapshot

To be run when the locked version of that library has changed; a test compares the file with the library.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter

from sightflow.blocks.models import prices
from sightflow.blocks.models.hosted_model import HostedModel
from sightflow.blocks.models.prices.library import price_of
from sightflow.blocks.models.prices.listed_price import LIBRARY, ListedPrice
from sightflow.blocks.models.prices.price_list import PriceFile
from sightflow.blocks.models.systems.gemini import Gemini
from sightflow.blocks.models.systems.gpt_4o import GPT4o

_FILE = Path(prices.__file__).with_name("from_genai_prices.json")
_SYSTEMS: tuple[type[HostedModel], ...] = (GPT4o, Gemini)  # the library has no prices of Alibaba Cloud's own


def snapshot() -> PriceFile:
    """The prices of every id with a profile, also of those that are gone, as the installed library has them."""
    return PriceFile({system.price_provider: _prices_of(system) for system in _SYSTEMS}, version(LIBRARY))


def _prices_of(system: type[HostedModel]) -> dict[str, ListedPrice]:
    found = {model_id: price_of(system.price_provider, model_id) for model_id in (*system.profiles, *system.retired)}
    return {model_id: price for model_id, price in sorted(found.items()) if price is not None}


if __name__ == "__main__":
    content = TypeAdapter(PriceFile).dump_json(snapshot(), indent=1, exclude_defaults=True)
    _FILE.write_bytes(content + b"\n")
