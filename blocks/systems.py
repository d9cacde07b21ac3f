"""The systems that can be asked, one line each; a class is imported when it is first used."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from blocks.vision_model import VisionModel
from schemas.failure import SpecError

SYSTEMS: dict[str, str] = {
    "florence-2": "blocks.florence2:Florence2",
}


@cache
def system_class(system: str) -> type[VisionModel]:
    """The block class of a system. Raises SpecError for an unknown name."""
    if system not in SYSTEMS:
        raise SpecError(f"{system!r} is not a system; allowed: {', '.join(SYSTEMS)}")
    module, _, name = SYSTEMS[system].partition(":")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]


def open_model(system: str, settings: dict[str, Any] | None = None) -> VisionModel:
    """A configured model, not yet loaded: from the spec's `models` section or, with `block: name`, from
    a saved Prefect block. Raises SpecError that names the wrong setting and what is allowed.
    """
    model_class = system_class(system)
    settings = dict(settings or {})
    if saved := settings.pop("block", None):
        loaded = model_class.load(saved)
        return loaded.model_copy(update=settings)  # type: ignore[union-attr,no-any-return]
    try:
        return model_class(**settings)
    except ValidationError as error:
        allowed = ", ".join(model_class.model_fields)
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise SpecError(f"models.{system}: {problems}; allowed: block, {allowed}") from None
