"""Why rows are stale, in words, out of what they hold themselves."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import SCHEMAS, Catalog
from sightflow.blocks.models.registry import open_model
from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.run.plan import ResolvedEnrichment
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.staleness import reasons_of_staleness
from tests.schemas.tables.test_catalog import row

FIELDS = {"type": "object", "properties": {"shop": {"type": "string"}, "total": {"type": "number"}}}
WITH_TAX = {"type": "object", "properties": {**FIELDS["properties"], "tax": {"type": ["number", "null"]}}}  # type: ignore[dict-item]
DETECT = Enrichment(capability="object_detection", labels=("dog",))
EXTRACT = Enrichment(capability="structured_extraction", schema=WITH_TAX)
SETTINGS: dict[str, dict[str, Any]] = {"florence-2": {"id": str(MODEL_FOLDER)}, "gpt-4o": {}}


def recipe(asked: Enrichment, system: str, **settings: Any) -> str:
    return open_model(system, SETTINGS[system] | settings).recipe(asked, MediaKind.IMAGE)


def why(folder: Path, asked: Enrichment, system: str, *rows: dict[str, Any], **settings: Any) -> list[str]:
    """The reasons for rows that were made so, under the settings of now."""
    catalog = Catalog(uri=f"file://{folder}/catalog")
    made = [
        row(
            uri=f"s3://b/{number}.jpg",
            enrichment=asked.name,
            capability=str(asked.capability),
            fingerprint=f"print {number}",
            **{"system": system, "model_id": open_model(system, SETTINGS[system]).ref.id} | each,
        )
        for number, each in enumerate(rows)
    ]
    catalog.publish(pl.DataFrame(made, schema=SCHEMAS["enrichments"]))
    models = {system: SETTINGS[system] | settings}
    spec = EnrichmentSpec(source=("s3://bucket/*",), catalog="s3://bucket/c", enrichments=(asked,), models=models)
    resolved = ResolvedEnrichment(asked, recipe(asked, system, **settings), (system,), MediaKind.IMAGE)
    return reasons_of_staleness(catalog, None, resolved, spec)


def parameters(asked: Enrichment) -> dict[str, Any]:
    return {"parameters": json.dumps(asked.parameters), "recipe": "another"}


def test_an_added_optional_field_is_named(tmp_path: Path) -> None:
    before = Enrichment(capability="structured_extraction", schema=FIELDS)
    assert recipe(before, "gpt-4o") != recipe(EXTRACT, "gpt-4o")
    assert why(tmp_path, EXTRACT, "gpt-4o", parameters(before)) == ["the schema changed: added tax"]


@pytest.mark.parametrize(
    ("then", "says"),
    [
        ({"parameters": '{"labels": ["cat"]}'}, "labels changed"),
        ({"parameters": "not JSON"}, "what was asked changed"),
        ({"parameters": "[" * 20_000}, "what was asked changed"),
        ({"system": "gemini"}, "answered by gemini, and florence-2 is asked now"),
        ({"model_id": "older"}, "answered by older, and"),
        ({}, "the prompt, the weights, the settings of the model or the form of rows changed"),
    ],
)
def test_what_differs_is_told(tmp_path: Path, then: dict[str, Any], says: str) -> None:
    (reason,) = why(tmp_path, DETECT, "florence-2", parameters(DETECT) | then)
    assert reason.startswith(says)


def test_rows_of_the_time_before_forms_were_enforced_are_told_and_kept_where_it_is_off(
    tmp_path: Path,
) -> None:
    free = {"recipe": recipe(DETECT, "florence-2", enforce_reply_form=False)}
    (reason,) = why(tmp_path / "a", DETECT, "florence-2", parameters(DETECT) | free)
    assert reason == "replies were not held to their form, and are now (enforce_reply_form)"
    assert why(tmp_path / "b", DETECT, "florence-2", parameters(DETECT) | free, enforce_reply_form=False) == []


def test_each_reason_stands_once_the_commonest_first(tmp_path: Path) -> None:
    by_another = [parameters(DETECT) | {"system": "gemini", "model_id": "g"}] * 3
    reasons = why(
        tmp_path, DETECT, "florence-2", parameters(DETECT) | {"parameters": '{"labels": ["cat"]}'}, *by_another
    )
    assert [reason.split()[0] for reason in reasons] == ["answered", "labels"]
