"""Systems by name: their classes, and models configured from a spec or a saved block.

In a spec a model goes by the name of its system, or by one of the user's own: `fast: {system: detector}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, get_args

from pydantic import SecretStr, ValidationError

from sightflow.blocks.models.outside_systems import (
    blamed_on,
    import_model_class,
    import_outside_system,
    outside_systems,
)
from sightflow.blocks.models.systems import SYSTEMS
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.failure import SpecError
from sightflow.schemas.redaction import names_a_secret
from sightflow.schemas.spec_reader import closest

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_IDENTITY = ("system", "class")
"""The settings that say what a model is."""


@cache
def system_class(system: str) -> type[VisionModel]:
    """The block class of a system. Raises SpecError for an unknown name, or a package that cannot be imported."""
    if problem := system_problem(system):
        raise SpecError(f"{system!r} {problem}")
    if system not in SYSTEMS:  # what is ours keeps its name
        return import_outside_system(system)
    module, _, name = SYSTEMS[system].partition(":")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]


def system_problem(system: str) -> str | None:
    """Why a name is none of a system, with what is allowed; None if it is one."""
    if system in SYSTEMS or system in outside_systems():
        return None
    known = [*SYSTEMS, *outside_systems()]
    return f"is not a system; {closest(system, known)}allowed: {', '.join(known)}"


def model_class(name: str, settings: Mapping[str, Any], may_name_code: bool = False) -> type[VisionModel]:
    """The class of an entry of a spec's `models`: of the system that it names or is called after, or one of the user's.

    Raises SpecError.
    """
    if problems := _identity_problems(name, settings, may_name_code):
        raise SpecError("; ".join(f"models.{name}: {f'{key}: ' if key else ''}{said}" for key, said in problems))
    if "class" in settings:
        return import_model_class(settings["class"], f"models.{name}.class")
    return system_class(settings.get("system", name))


def _identity_problems(name: str, settings: Mapping[str, Any], may_name_code: bool) -> list[tuple[str, str]]:
    """Why it is not said what a model is, by the name of the setting ("" for its own name)."""
    given = [key for key in _IDENTITY if key in settings]
    if wrong := [key for key in given if not isinstance(settings[key], str)]:
        return [(key, "is a text") for key in wrong]
    if len(given) > 1:
        return [("class", "goes without `system`: a class says by itself what it is")]
    is_a_system = system_problem(name) is None
    if not given:
        problem = system_problem(name)
        return [("", f"{problem}; a name of your own says which it is: {name}: {{system: ...}}")] if problem else []
    if is_a_system and settings.get("system") != name:
        return [(given[0], f"{name} is itself a system; choose another name for this model")]
    if not _NAME.fullmatch(name):
        return [("", "a name has small letters, digits and . _ -, at most 63 of them")]
    if "class" in settings and not may_name_code:
        how = f"give its package an entry point of the group `sightflow.systems` and write {name}: {{system: ...}}"
        return [("class", f"is taken only from a spec file that you give to the command yourself; {how}")]
    problem = system_problem(settings["system"]) if "system" in settings else None
    return [("system", f"{settings['system']!r} {problem}")] if problem else []


def settings_problems(name: str, settings: Mapping[str, Any], may_name_code: bool = False) -> list[tuple[str, str]]:
    """What is wrong with an entry of `models`, by the name of the setting ("" for the entry's own, or several that do
    not go together).

    A key is never allowed, since specs are stored and shown. With `block: name` the settings are checked one by one:
    those that the block holds are not known here.
    """
    if problems := _identity_problems(name, settings, may_name_code):
        return problems
    try:
        chosen = model_class(name, settings, may_name_code)
    except SpecError as error:
        return [("class" if "class" in settings else "", str(error))]
    own = {key: value for key, value in settings.items() if key not in _IDENTITY}
    try:
        with blamed_on(name, chosen):
            problems = _own_settings_problems(chosen, own)
    except SpecError as error:
        return [("", str(error))]
    if isinstance(source := own.get("boxes_from"), Mapping) and not problems:
        found = settings_problems("boxes", {"system": "detector", **source})
        problems = [("boxes_from", f"{f'{key}: ' if key else ''}{problem}") for key, problem in found]
    return problems


def _own_settings_problems(model_class: type[VisionModel], settings: Mapping[str, Any]) -> list[tuple[str, str]]:
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


def open_model(name: str, settings: dict[str, Any] | None = None, may_name_code: bool = False) -> VisionModel:
    """A configured model, not yet loaded: from the spec's `models` section or, with `block: name`, from
    a saved Prefect block that the other settings change. Raises SpecError that names the wrong setting and what is
    allowed.
    """
    settings = dict(settings or {})
    chosen = model_class(name, settings, may_name_code)
    if problems := settings_problems(name, settings, may_name_code):
        raise SpecError("; ".join(f"models.{name}: {f'{key}: ' if key else ''}{said}" for key, said in problems))
    own = {key: value for key, value in settings.items() if key not in _IDENTITY}
    with blamed_on(name, chosen):
        model = _configured(chosen, name, own).called(name)
    if isinstance(source := getattr(model, "boxes_from", None), dict):
        boxed = {key: value for key, value in source.items() if key != "system"}
        try:
            model.take_boxes_from(open_model(source.get("system", "detector"), boxed))  # type: ignore[attr-defined]
        except (SpecError, ValueError) as error:
            raise SpecError(f"models.{name}.boxes_from: {error}") from None
    return model


def _configured(model_class: type[VisionModel], system: str, settings: dict[str, Any]) -> VisionModel:
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
