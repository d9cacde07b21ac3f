"""`replay CATALOG`: what a catalog holds of its last run is data, and may be anything."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from sightflow.blocks.catalog.catalog import SCHEMAS, Catalog
from tests.command_line import app


@pytest.mark.parametrize(
    "stored",
    ["", "null", "{", '{"spec": {"enrichments": 5}}', '{"spec": {"enrichments": []}}', "[" * 100_000],
    ids=["nothing", "null", "half", "a number", "none", "brackets without end"],
)
def test_a_run_that_left_no_enrichments_is_told_in_words(write_spec: Any, tmp_path: Path, stored: str) -> None:
    catalog = Catalog.at(tmp_path / "catalog")
    key = {"uri": "s3://bucket/x", "enrichment": "caption", "capability": "image captioning", "fingerprint": "f"}
    catalog.publish(pl.DataFrame([dict.fromkeys(SCHEMAS["enrichments"]) | key], schema=SCHEMAS["enrichments"]))
    catalog.record_run(pl.DataFrame([dict.fromkeys(SCHEMAS["runs"]) | {"report": stored}], schema=SCHEMAS["runs"]))
    done = CliRunner().invoke(app, ["replay", catalog.uri, "--spec", str(write_spec(str(tmp_path)))])
    assert done.exit_code == 2 and "has left its enrichments" in done.output
