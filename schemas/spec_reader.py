"""Reading a spec file: YAML in, a checked `EnrichmentSpec` out, and every mistake with its line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment, FrameSampling
from sightflow.schemas.failure import SpecError
from sightflow.schemas.spec import EnrichmentSpec, Limits, Policy, RunnerSettings, StoreSettings, Upkeep


def is_spec_file(text: str | Path) -> bool:
    """Whether text that may also be a catalog's URI names a spec file."""
    return str(text).endswith((".yaml", ".yml"))


def read_spec(path: str | Path) -> EnrichmentSpec:
    """Read and check a spec file; relative local paths in it are taken from the file's own folder.

    Raises SpecError that lists every mistake with its line, what is wrong and what is allowed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise SpecError(f"{path}{where}: is not YAML: {getattr(error, 'problem', error)}") from None
    if root is None or not isinstance(document, dict):
        raise SpecError(f"{path}:1: a spec is a mapping with source, catalog and enrichments")
    try:
        spec = EnrichmentSpec.model_validate(document, context={"folder": str(path.resolve().parent)})
    except ValidationError as error:
        problems = error.errors()
        # A list whose items are all wrong is also "too short" to pydantic; the items say it better.
        causes = [p for p in problems if p["type"] != "too_short" or not p["input"] or len(problems) == 1]
        lines = [_explain(path, root, problem) for problem in causes]
        raise SpecError("\n".join(dict.fromkeys(lines))) from None
    return _resolved(spec, path.resolve().parent)


def _resolved(spec: EnrichmentSpec, folder: Path) -> EnrichmentSpec:
    """The spec with the local paths of its weights taken from a folder."""
    models = {
        system: settings | {"id": str((folder / settings["id"]).resolve())}
        if str(settings.get("id", "")).startswith((".", "/"))
        else settings
        for system, settings in spec.models.items()
    }
    return spec.model_copy(update={"models": models})


def _explain(path: Path, root: yaml.Node, problem: Any) -> str:
    """One pydantic error as `file:line: place: what is wrong; what is allowed`."""
    place: Sequence[str | int] = problem["loc"]
    node, dotted = root, ""
    for step in place:
        child = _child(node, step)
        if child is None:
            break
        node = child
    for step in place:
        dotted += f"[{step}]" if isinstance(step, int) else f".{step}" if dotted else str(step)
    kind, given = problem["type"], problem.get("input")
    match kind:
        case "extra_forbidden":
            allowed = _fields_at(place[:-1])
            close = difflib.get_close_matches(str(place[-1]), allowed, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            says = f"is not a known key; {hint}allowed: {', '.join(allowed)}"
        case "missing":
            says = "is missing"
        case "enum" if place and place[-1] == "capability":
            says = f"{given!r} is not a capability; allowed: {', '.join(Capability)}"
        case "value_error":
            says = str(problem["ctx"]["error"])
        case _:
            says = f"{problem['msg']}, not {given!r}" if kind != "too_short" else problem["msg"]
    return f"{path}:{node.start_mark.line + 1}: {dotted + ': ' if dotted else ''}{says}"


def _child(node: yaml.Node, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step]  # type: ignore[no-any-return]
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                # A scalar's own line is its key's; for a block the key is where a reader looks too.
                return value if isinstance(value, yaml.SequenceNode | yaml.MappingNode) else key
    return None


def _fields_at(place: Sequence[str | int]) -> list[str]:
    """The keys allowed at a place of the spec."""
    model: type[BaseModel] = EnrichmentSpec
    sections: dict[str, type[BaseModel]] = {
        "enrichments": Enrichment,
        "sampling": FrameSampling,
        "store": StoreSettings,
        "policy": Policy,
        "limits": Limits,
        "runner": RunnerSettings,
        "upkeep": Upkeep,
    }
    for step in place:
        if isinstance(step, str):
            model = sections.get(step, model)
    return list(model.model_fields)
