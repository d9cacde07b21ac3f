"""sightflow models check and pull, for an entry of a spec that has a name of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sightflow.infra.cli.models import app
from sightflow.schemas.failure import SpecError
from tests.loopback.endpoint_api import EndpointOnLoopback
from tests.loopback.server import Say


def test_an_entry_of_a_spec_is_checked_by_its_name(tmp_path: Path) -> None:
    with EndpointOnLoopback(lambda received: Say("Red."), lists=["vendor/vlm"]) as server:
        spec = tmp_path / "spec.yaml"
        spec.write_text(
            "source: media\ncatalog: catalog\nenrichments: [{capability: image captioning, model: far}]\n"
            f"models: {{far: {{system: chat, id: vendor/vlm, engine: endpoint, endpoint_url: '{server.url}', "
            "usd_per_million_input: 100, usd_per_million_output: 100}}\n"
        )
        done = CliRunner().invoke(app, ["check", "far", "--spec", str(spec)], catch_exceptions=False)
    assert "far (vendor/vlm) says: Red." in done.output and "$0.1" in done.output
    with pytest.raises(SpecError, match="nowhere"):
        CliRunner().invoke(app, ["check", "nowhere", "--spec", str(spec)], catch_exceptions=False)
