"""What a run leaves of itself in the catalog and in Prefect."""

import json
from datetime import UTC, datetime

import pytest

from sightflow.schemas.run.report import MaintenanceResult, RunReport
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.create_artifacts import markdown
from sightflow.tasks.report import run_row


def test_a_secret_of_this_process_is_in_no_row_and_no_artifact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "canary-shop")  # too short for a spec that holds it to be refused
    asked = {"capability": "vqa", "question": "What is canary-shop?"}
    spec = EnrichmentSpec.model_validate(
        {"source": "s3://bucket/**", "catalog": "s3://bucket/c", "enrichments": [asked]}
    )
    now = datetime.now(UTC)
    counts = dict.fromkeys(("objects", "planned", "published", "unchanged", "orphaned", "pruned"), 0)
    upkeep = [MaintenanceResult(table="runs", files_before=1, files_after=1, skipped="refused: Bearer canary-1")]
    done = RunReport(
        run_id="1", catalog=spec.catalog, started_at=now, finished_at=now, spec=spec, upkeep=upkeep, **counts
    )
    stored = run_row(done).row(0, named=True)
    assert "canary" not in str(stored) and "canary" not in markdown(done)
    assert RunReport.model_validate_json(stored["report"]).catalog == spec.catalog
    assert json.loads(stored["report"])["spec"]["enrichments"][0]["question"] == "What is ***?"
