"""Systems in packages of their own: found by their entry point, imported when a spec names one, and blamed by name."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.failure import SightflowError, SpecError
from sightflow.schemas.rating import Rating

GROUP = "sightflow.systems"
"""The group of entry points in which a package names its systems: `NAME = "package.module:Class"`
(https://packaging.python.org/specifications/entry-points).
"""
_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@cache
def outside_systems() -> dict[str, tuple[EntryPoint, ...]]:
    """What the installed packages name, by name: read from their metadata, with nothing imported."""
    found = defaultdict[str, list[EntryPoint]](list)
    for entry in entry_points(group=GROUP):
        found[entry.name].append(entry)
    return {name: tuple(found[name]) for name in sorted(found)}


def package_of(entry: EntryPoint) -> str:
    """The distribution that an entry point is of, with its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "a package"


def import_outside_system(name: str) -> type[VisionModel]:
    """The class behind an entry point. Raises SpecError that names the package, whatever importing it does."""
    entries = outside_systems()[name]
    if len({entry.value for entry in entries}) > 1:
        packages = " and ".join(package_of(entry) for entry in entries)
        raise SpecError(f"{name!r} is a system of {packages}; uninstall all but one of them")
    return import_model_class(entries[0].value, f"the system {name!r} of {package_of(entries[0])}")


def import_model_class(path: str, what: str) -> type[VisionModel]:
    """The class at `package.module:Class`; `what` it is, for messages.

    Raises SpecError, whatever importing it does, and if it is not a system that could be asked.
    """
    if not _PATH.fullmatch(path):
        raise SpecError(f"{what}: {path!r} names no class; write package.module:Class")
    module, _, attribute = path.partition(":")
    try:
        found: Any = getattr(import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise SpecError(f"{what}: {path} cannot be imported: {_told(error)}; install the package it needs") from error
    if not (isinstance(found, type) and issubclass(found, VisionModel)):
        raise SpecError(f"{what}: {path} is not a class derived from VisionModel")
    if inspect.isabstract(found) or not isinstance(getattr(found, "rating", None), Rating):
        lacking = sorted(found.__abstractmethods__) or ["rating"]
        raise SpecError(f"{what}: {path} lacks {', '.join(lacking)}")
    return found


def is_outside(model_class: type[Any]) -> bool:
    """Whether a class is not part of this package."""
    return model_class.__module__.partition(".")[0] != "sightflow"


@contextmanager
def blamed_on(name: str, model_class: type[Any], error_class: type[SightflowError] = SpecError) -> Iterator[None]:
    """Whatever the code of a class that is not ours raises within, other than our errors, becomes one that names it."""
    try:
        yield
    except SightflowError:
        raise
    except (Exception, SystemExit) as error:
        if not is_outside(model_class) or isinstance(error, OSError):
            raise
        where = f"{model_class.__module__}:{model_class.__qualname__}"
        raise error_class(f"{name}: {where}, which is not part of Sightflow, failed: {_told(error)}") from error


def _told(error: BaseException) -> str:
    said = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
