"""Schemas that a spec file names: a file beside it, or a pydantic model of the user's own code.

Only `read_spec` comes here, for the file that a user gives on the command line. A spec that is stored (in a catalog, in
a deployment's parameters) holds the schema itself, and no code is imported for it.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, PydanticSchemaGenerationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from sightflow.schemas.extraction.json_schema import MOST_CHARACTERS, UnsupportedSchema
from sightflow.schemas.failure import SpecError

if TYPE_CHECKING:
    from sightflow.schemas.spec_yaml import SpecPlaces

_FILES = (".json", ".yaml", ".yml")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*")


def with_schemas_read(document: Any, places: SpecPlaces, folder: Path) -> Any:
    """A spec's document with each `schema` that is a name replaced by what it names; `folder`: that of the spec.

    Raises SpecError, with the line, if a file cannot be read or a class cannot be imported.
    """
    enrichments = document.get("enrichments") if isinstance(document, dict) else None
    if not isinstance(enrichments, list):
        return document
    read, problems = [], []
    for index, each in enumerate(enrichments):
        if isinstance(each, dict) and isinstance(name := each.get("schema"), str):
            try:
                each = each | {"schema": _named(name, folder)}
            except UnsupportedSchema as error:
                problems.append(places.explain(("enrichments", index, "schema"), str(error)))
        read.append(each)
    if problems:
        raise SpecError("\n".join(problems))
    return document | {"enrichments": read}


def _named(name: str, folder: Path) -> Any:
    if name.endswith(_FILES):
        return _from_file(folder / name)
    if _DOTTED.fullmatch(name):
        return _from_code(name, folder)
    raise UnsupportedSchema(
        f"{name[:80]!r} is neither a schema nor the name of one; allowed: a JSON Schema, a file "
        f"({', '.join(_FILES)}) beside the spec, or a pydantic model: mypackage.models:Receipt"
    )


def _from_file(path: Path) -> Any:
    from sightflow.schemas.spec_yaml import read_yaml  # which reads YAML, and so JSON, within bounds

    try:
        size = path.stat().st_size
    except OSError as error:
        raise UnsupportedSchema(f"{path} cannot be read: {error.strerror}") from None
    if size > 4 * MOST_CHARACTERS:
        raise UnsupportedSchema(f"{path} has {size:,} bytes; a schema has at most {MOST_CHARACTERS:,} characters")
    try:
        document, _ = read_yaml(path)
    except SpecError as error:
        raise UnsupportedSchema(str(error)) from None
    return document


def _from_code(name: str, folder: Path) -> Any:
    """The schema of a pydantic model; modules beside the spec are found, as Python finds those beside a script."""
    module, _, attribute = name.replace(":", ".").rpartition(".")
    beside = str(folder)
    sys.path.insert(0, beside)
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # whatever the user's module does
        raise UnsupportedSchema(f"{module} cannot be imported: {type(error).__name__}: {error}"[:300]) from None
    finally:
        sys.path.remove(beside)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise UnsupportedSchema(f"{module} has no pydantic model {attribute}")
    try:
        return found.model_json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError) as error:
        raise UnsupportedSchema(f"{name} has no JSON Schema: {str(error).splitlines()[0][:200]}") from None
