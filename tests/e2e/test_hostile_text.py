"""Names of files and what models say are text for the screen, not orders to the terminal or marks for its colours."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sightflow.infra.cli.screen import console
from tests.command_line import app
from tests.e2e.test_command_line import sightflow
from tests.e2e.test_incremental import flat

NAME = "\x1b[2J\x9b31m[red]name\x07.png"
SAID = "\x1b]0;title\x07 [link=file:///etc/passwd]look[/link] \x9b31m [/red]\r\u202eend"
STEERS = ("\x1b]", "\x1b[2J", "\x9b", "\x07", "\r\u202e", "\u202e")


@pytest.fixture(scope="module")
def catalog(prefect_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of one caption and one failure, whose every text is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "media").mkdir()
    (folder / "media" / NAME).write_bytes(flat((1, 2, 3)))
    (folder / "media" / f"bad {NAME}").write_bytes(b"")
    asked = [{"capability": "image captioning", "name": "caption"}]
    spec = {"source": f"{folder}/media/*", "catalog": str(folder / "catalog"), "enrichments": asked}
    (folder / "spec.yaml").write_text(json.dumps(spec | {"policy": {"max_quarantine_ratio": 1.0}}))  # JSON is YAML
    os.environ["STAND_IN_SAYS"] = SAID
    try:
        done = sightflow("run", str(folder / "spec.yaml"))
    finally:
        del os.environ["STAND_IN_SAYS"]
    assert done.returncode == 0 and "1 published" in done.stdout, done.stderr
    return folder / "catalog"


def typed(*words: str) -> Any:
    console.width = 400  # wherever the tests run, nothing is cut
    return CliRunner().invoke(app, words)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody is watching."""
    monkeypatch.setattr("sightflow.infra.cli.catalog.is_terminal", lambda: True)


QUERY = "SELECT uri, caption FROM catalog"


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_rows_on_a_terminal_cannot_steer_it(form: str, catalog: Path) -> None:
    seen = typed("catalog", "query", str(catalog), QUERY, "--format", form).stdout
    assert not [steer for steer in STEERS if steer in seen]
    assert "[link=file:///etc/passwd]look[/link]" in seen and "[red]name" in seen


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("words", [(), ("--json",)], ids=["table", "json"])
def test_failures_on_a_terminal_cannot_steer_it(words: tuple[str, ...], catalog: Path) -> None:
    seen = typed("quarantine", "list", str(catalog), *words).stdout
    assert not [steer for steer in STEERS if steer in seen]
    assert "[red]name" in seen


def test_programs_are_given_the_text_as_it_is(catalog: Path) -> None:
    line = typed("catalog", "query", str(catalog), QUERY, "--format", "json").stdout.removesuffix("\n")
    assert json.loads(line) == {"uri": f"file://{catalog.parent}/media/{NAME}", "caption": SAID}


def test_headings_and_errors_are_text_too(catalog: Path, tmp_path: Path) -> None:
    headed = typed("catalog", "query", str(catalog), 'SELECT 1 AS "[red]\x1b[2Jx"')
    assert "[red]\\x1b[2Jx" in headed.stdout
    missing = typed("catalog", "show", str(tmp_path / "\x1b[2J[red]gone"))
    assert missing.exit_code == 1 and "\\x1b[2J[red]gone" in missing.stderr and "\x1b" not in missing.stderr
    wrong = typed("catalog", "query", str(catalog), "SELECT\nnothing")
    assert wrong.exit_code == 2 and len(wrong.stderr.splitlines()) > 2  # DuckDB points at the place, on its own lines
