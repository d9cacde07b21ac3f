"""Systems by name: their classes, and models configured from a spec or a saved block."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, get_args

from pydantic import SecretStr, ValidationError

from sightflow.blocks.models.systems import SYSTEMS
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.failure import SpecError
from sightflow.schemas.redaction import names_a_secret
from sightflow.schemas.spec_reader import closest


@cache
def system_class(system: str) -> type[VisionModel]:
    """The block class of a system. Raises SpecError for an unknown name."""
    if problem := system_problem(system):
        raise SpecError(f"{system!r} {problem}")
    module, _, name = SYSTEMS[system].partition(":")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]


def system_problem(system: str) -> str | None:
    """Why a name is none of a system, with what is allowed; None if it is one."""
    return None if system in SYSTEMS else f"is not a system; {closest(system, SYSTEMS)}allowed: {', '.join(SYSTEMS)}"


def settings_problems(system: str, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with the settings of a system, by the name of the setting ("" for several that do not go together).

    A key is never allowed, since specs are stored and shown. With `block: name` the settings are checked one by one:
    those that the block holds are not known here.
    """
    model_class = system_class(system)
    allowed = ["block", *(name for name, field in model_class.model_fields.items() if not _is_secret(field.annotation))]
    allows = f"allowed: {', '.join(allowed)}"
    problems = []
    for name in sorted(set(settings) - set(allowed)):
        if name in model_class.model_fields or names_a_secret(name):
            problems.append((name, f"a spec holds no keys; put it into the environment or a saved block; {allows}"))
        else:
            problems.append((name, f"there is no such setting; {closest(name, allowed)}{allows}"))
    own = {name: value for name, value in settings.items() if name in allowed and name != "block"}
    if "block" in settings and not isinstance(settings["block"], str):
        problems.append(("block", "is the name of a saved block"))
    try:
        model = model_class.model_validate(own)
    except ValidationError as error:
        # Not the error's own text: it would show what was given.
        found = [(str(next(iter(p["loc"]), "")), f"{p['msg']}; {allows}") for p in error.errors()]
        return problems + [(name, problem) for name, problem in found if name or "block" not in settings]
    switches = [name for name, value in own.items() if isinstance(value, bool)]
    wrong = [name for name in switches if not isinstance(getattr(model, name), bool)]
    return problems + [(name, "is yes or no in YAML, and a number belongs here") for name in wrong]


def open_model(system: str, settings: dict[str, Any] | None = None) -> VisionModel:
    """A configured model, not yet loaded: from the spec's `models` section or, with `block: name`, from
    a saved Prefect block that the other settings change. Raises SpecError that names the wrong setting and what is
    allowed.
    """
    model_class = system_class(system)
    settings = dict(settings or {})
    if problems := settings_problems(system, settings):
        raise SpecError("; ".join(f"models.{system}: {f'{name}: ' if name else ''}{said}" for name, said in problems))
    saved = settings.pop("block", None)
    if saved is None:
        return model_class(**settings)
    block = _saved(model_class, system, saved)
    kept = {name: getattr(block, name) for name in model_class.model_fields if name in block.model_fields_set}
    try:
        return model_class(**{**kept, **settings})
    except ValidationError as error:
        said = "; ".join(p["msg"] for p in error.errors())
        raise SpecError(f"models.{system}: with what the block {saved} holds: {said}") from None


def _saved(model_class: type[VisionModel], system: str, name: str) -> VisionModel:
    slug = model_class._block_type_slug
    try:
        return model_class.load(name)
    except ValueError:
        raise SpecError(f"models.{system}.block: there is no saved block {slug}/{name}") from None
    except RuntimeError:  # Prefect's, from a ValidationError that would show what the block holds
        raise SpecError(f"models.{system}.block: {slug}/{name} does not fit this version; save it anew") from None


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or SecretStr in get_args(annotation)
