"""Reading a spec file: YAML in, a checked `EnrichmentSpec` out, and every mistake with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment, FrameSampling
from sightflow.schemas.extraction.named_schema import with_schemas_read
from sightflow.schemas.failure import SpecError
from sightflow.schemas.policy import Limits, Policy, Upkeep
from sightflow.schemas.redaction import Place, names_a_secret, secrets_in
from sightflow.schemas.spec import WHERE_KEYS_BELONG, EnrichmentSpec, RunnerSettings, StoreSettings
from sightflow.schemas.spec_yaml import SpecPlaces, read_yaml

_SECTION_WANTED = {"model_type", "model_attributes_type", "dict_type"}
_TEXT_WANTED = {"string_type", "literal_error", "enum", "tuple_type", "string_unicode"}
_SHOWN = re.compile(r"[\w .,:/*-]{1,40}")
_LIKE_A_KEY = re.compile(r"(?=\S*\d)(?=\S*[A-Za-z])\S{16,}")


def is_spec_file(text: str | Path) -> bool:
    """Whether text that may also be a catalog's URI names a spec file."""
    return str(text).endswith((".yaml", ".yml"))


def read_spec(path: str | Path) -> EnrichmentSpec:
    """Read and check a spec file; relative local paths in it are taken from the file's own folder.

    Raises SpecError that lists every mistake with its line, what is wrong and what is allowed. What `models` holds is
    checked where systems are known: `sightflow.tasks.route.check_models`.
    """
    path = Path(path)
    document, places = read_yaml(path)
    if found := [places.explain(place, f"{why}; {WHERE_KEYS_BELONG}") for place, why in secrets_in(document)]:
        raise SpecError("\n".join(dict.fromkeys(found)))
    document = with_schemas_read(document, places, path.resolve().parent)
    try:
        spec = EnrichmentSpec.model_validate(document, context={"folder": str(path.resolve().parent)})
    except ValidationError as error:
        problems = error.errors()
        # A list whose items are all wrong is also "too short" to pydantic; the items say it better.
        causes = [p for p in problems if p["type"] != "too_short" or not p["input"] or len(problems) == 1]
        raise SpecError("\n".join(dict.fromkeys(_explain(places, problem) for problem in causes))) from None
    if found := [places.explain(place, problem) for place, problem in _switches_for_numbers(spec, places)]:
        raise SpecError("\n".join(found))
    return _resolved(spec, path.resolve().parent).read_at(places)


def closest(name: str, allowed: Collection[str]) -> str:
    """`did you mean NAME? `, if one of those allowed is spelled nearly so; else nothing."""
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"did you mean {close[0]}? " if close else ""


def _switches_for_numbers(spec: EnrichmentSpec, places: SpecPlaces) -> list[tuple[Place, str]]:
    """Where `yes` or `no` stands for a number, which pydantic would take for 1 or 0."""
    found = []
    for place, word in places.unquoted.items():
        if place[2:3] == ("schema",):
            continue  # JSON Schema has rules of its own, and has been read by them
        value: Any = spec
        for step in place:
            holds_any = isinstance(value, dict) or isinstance(step, int)
            value = value[step] if holds_any else getattr(value, str(step), None)
        if isinstance(value, int | float) and not isinstance(value, bool) and word.isalpha():
            found.append((place, f"`{word}` is yes or no in YAML, and a number belongs here"))
    return found


def _resolved(spec: EnrichmentSpec, folder: Path) -> EnrichmentSpec:
    """The spec with the local paths of its weights taken from a folder."""
    models = {name: _with_its_folder(settings, folder) for name, settings in spec.models.items()}
    return spec.model_copy(update={"models": models})


def _with_its_folder(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a model, and of the one whose boxes it takes, with local paths taken from a folder."""
    resolved = dict(settings)
    if str(settings.get("id", "")).startswith((".", "/")):
        resolved["id"] = str((folder / settings["id"]).resolve())
    if isinstance(settings.get("boxes_from"), dict):
        resolved["boxes_from"] = _with_its_folder(settings["boxes_from"], folder)
    return resolved


def _explain(places: SpecPlaces, problem: Any) -> str:
    """One pydantic error as `file:line: place: what is wrong; what is allowed`. What may be a key is not told."""
    place: Place = problem["loc"]
    kind, given = problem["type"], problem.get("input")
    match kind:
        case "extra_forbidden":
            allowed = _fields_at(place[:-1])
            says = f"is not a known key; {closest(str(place[-1]), allowed)}allowed: {', '.join(allowed)}"
            says += f"; {WHERE_KEYS_BELONG}" if names_a_secret(str(place[-1])) else ""
        case "missing":
            says = "is missing"
        case "value_error":
            says = str(problem["ctx"]["error"])
        case "too_short":
            says = problem["msg"]
        case _ if kind in _SECTION_WANTED:
            says = f"is a section: its keys stand below it, indented; allowed: {', '.join(_fields_at(place))}"
            if place[:1] == ("models",):
                says = "is a section: `system: {setting: value}`, e.g. florence-2: {batch_size: 16}"
        case _ if kind in _TEXT_WANTED and (advice := places.quoting_advice(place)):
            says = advice if kind != "literal_error" else f"{problem['msg']}; {advice}"
        case "tuple_type":
            says = "is a list: [one, another], or one entry a line, each after a `- `"
        case "enum" if place and place[-1] == "capability":
            says = f"{_quoted(given) or 'this'} is not a capability; allowed: {', '.join(Capability)}"
        case _:
            # What is not in the file at this place stands for a whole section, and may be anything.
            told = _quoted(given) if place in places.lines else ""
            says = f"{problem['msg']}{', not ' + told if told else ''}"
    return places.explain(place, says)


def _quoted(given: Any) -> str:
    """A value as a message may repeat it; nothing if it is long, a section, or looks like a key."""
    if isinstance(given, bool | int | float):
        return repr(given)
    if isinstance(given, str) and _SHOWN.fullmatch(given) and not _LIKE_A_KEY.search(given):
        return repr(given)
    return ""


def _fields_at(place: Place) -> list[str]:
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
    return [field.alias or name for name, field in model.model_fields.items()]
