"""What is configured and holds a connection or a key, as Prefect blocks: `prefect block register -m sightflow.blocks`.

A class is made when it is first asked for: a process that uses one model imports one system. These are the classes that
Prefect knows, and so they import Prefect; what they are made of, in the modules below, does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sightflow.blocks.models.systems import SYSTEMS

_BLOCKS: dict[str, str] = {
    "Catalog": "sightflow.blocks.catalog.catalog",
    "ObjectStore": "sightflow.blocks.store.object_store",
    **{name: module for module, _, name in (where.partition(":") for where in SYSTEMS.values())},
}
__all__ = list(_BLOCKS)


def __getattr__(name: str) -> Any:
    if name not in _BLOCKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sightflow.blocks.lazy_block import block_type

    return block_type(getattr(import_module(_BLOCKS[name]), name))


def __dir__() -> list[str]:
    return sorted({*globals(), *_BLOCKS})
