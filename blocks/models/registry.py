"""Systems by name: their classes, and models configured from a spec or a saved block."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, get_args

from pydantic import SecretStr, ValidationError

from sightflow.blocks.models.systems import SYSTEMS
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.failure import SpecError


@cache
def system_class(system: str) -> type[VisionModel]:
    """The block class of a system. Raises SpecError for an unknown name."""
    if system not in SYSTEMS:
        raise SpecError(f"{system!r} is not a system; allowed: {', '.join(SYSTEMS)}")
    module, _, name = SYSTEMS[system].partition(":")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]


def open_model(system: str, settings: dict[str, Any] | None = None) -> VisionModel:
    """A configured model, not yet loaded: from the spec's `models` section or, with `block: name`, from
    a saved Prefect block that the other settings change. Raises SpecError that names the wrong setting and what is
    allowed; a key is never allowed, since specs are stored and shown.
    """
    model_class = system_class(system)
    settings = dict(settings or {})
    allowed = [name for name, field in model_class.model_fields.items() if not _is_secret(field.annotation)]
    if unknown := sorted(set(settings) - {"block", *allowed}):
        secret = unknown[0] in model_class.model_fields
        why = "a spec holds no keys; put it into the environment or a saved block" if secret else "there is no such"
        raise SpecError(f"models.{system}: {unknown[0]}: {why}; allowed: block, {', '.join(allowed)}")
    try:
        saved = settings.pop("block", None)
        if saved is None:
            return model_class(**settings)
        block = _saved(model_class, system, saved)
        kept = {name: getattr(block, name) for name in model_class.model_fields if name in block.model_fields_set}
        return model_class(**{**kept, **settings})
    except ValidationError as error:
        # Not the error's own text: it would show what was given.
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise SpecError(f"models.{system}: {problems}; allowed: block, {', '.join(allowed)}") from None


def _saved(model_class: type[VisionModel], system: str, name: str) -> VisionModel:
    slug = model_class.get_block_type_slug()
    try:
        return model_class.load(name)  # type: ignore[return-value]
    except ValueError:
        raise SpecError(f"models.{system}.block: there is no saved block {slug}/{name}") from None
    except RuntimeError:  # Prefect's, from a ValidationError that would show what the block holds
        raise SpecError(f"models.{system}.block: {slug}/{name} does not fit this version; save it anew") from None


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or SecretStr in get_args(annotation)
