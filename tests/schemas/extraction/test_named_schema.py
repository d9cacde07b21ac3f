"""Schemas that a spec file names: files beside it and the user's own classes, in a spec file and nowhere else."""

import json
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from sightflow.schemas.failure import SpecError
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.spec_reader import read_spec

FIELDS = {"type": "object", "properties": {"total": {"type": "number"}, "shop": {"type": "string"}}}
CODE = """
from pathlib import Path
from pydantic import BaseModel

class Receipt(BaseModel):
    total: float
    shop: str | None = None

class Endless(BaseModel):
    inner: "Endless | None" = None

NOT_A_MODEL = 3
"""


def spec(folder: Path, schema: str) -> Path:
    path = folder / "spec.yaml"
    path.write_text(
        f"source: {folder}/*.jpg\ncatalog: {folder}/catalog\nenrichments:\n"
        f"  - capability: structured extraction\n    name: receipt\n    schema: {schema}\n"
    )
    return path


@pytest.fixture
def module(tmp_path: Path) -> str:
    name = f"models_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(CODE)
    return name


def test_inline_file_and_class_are_the_same_to_a_run(tmp_path: Path, module: str) -> None:
    (tmp_path / "fields.json").write_text(json.dumps(FIELDS))
    (tmp_path / "fields.yml").write_text("type: object\nproperties:\n  total: {type: number}\n  shop: {type: string}\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "fields.json").write_text(json.dumps(FIELDS))
    read = [
        read_spec(spec(tmp_path, schema)).enrichments[0]
        for schema in (json.dumps(FIELDS), "fields.json", "fields.yml", "sub/fields.json")
    ]
    assert all(each == read[0] for each in read)
    for name in (f"{module}:Receipt", f"{module}.Receipt"):
        schema = read_spec(spec(tmp_path, name)).enrichments[0].extraction_schema
        assert schema is not None and schema["required"] == ["total"]
        assert schema["properties"]["shop"] == {"type": ["string", "null"]}
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("missing.json", "cannot be read"),
        ("broken.json", "broken.json"),
        ("large.json", "at most"),
        ("MODULE:Missing", "has no pydantic model Missing"),
        ("MODULE:NOT_A_MODEL", "has no pydantic model"),
        ("MODULE:Endless", "refers to itself"),
        ("no_such_module_anywhere.models:Receipt", "cannot be imported: ModuleNotFoundError"),
        ("'just some words'", "neither a schema nor the name of one"),
        ("{type: object, properties: {a: {type: string, colour: red}}}", "at a: colour: not supported"),
        ("{type: object, properties: {a: {type: string, enum: [yes, no]}}}", "enum is a list of values"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(tmp_path: Path, module: str, schema: str, says: str) -> None:
    (tmp_path / "broken.json").write_text('{"type": ')
    (tmp_path / "large.json").write_text(" " * 200_000)
    with pytest.raises(SpecError, match=r"spec\.yaml:6: .*schema") as refused:
        read_spec(spec(tmp_path, schema.replace("MODULE", module)))
    assert says in str(refused.value)


def test_a_stored_spec_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proof = tmp_path / "it ran"
    (tmp_path / "evil_models.py").write_text(f"open({str(proof)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    stored = {"source": "s3://b/*", "catalog": "s3://b/c"}
    for name in ("evil_models:Receipt", "evil_models.Receipt", str(tmp_path / "evil.json")):
        asked = {"capability": "structured_extraction", "schema": name}
        with pytest.raises(ValidationError, match="in a spec file alone"):
            EnrichmentSpec.model_validate({**stored, "enrichments": [asked]})
    assert not proof.exists() and "evil_models" not in sys.modules


def test_a_read_spec_is_stored_with_the_schema_itself(tmp_path: Path, module: str) -> None:
    read = read_spec(spec(tmp_path, f"{module}:Receipt"))
    stored = json.loads(json.dumps(read.model_dump(mode="json")))
    assert stored["enrichments"][0]["schema"]["properties"]["total"] == {"type": "number"}
    assert EnrichmentSpec.model_validate(stored) == read
