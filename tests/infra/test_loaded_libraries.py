"""Which libraries a command loads: what it does not need takes longer to import than the command takes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from typer.main import get_command

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.infra.cli.app import command_line
from sightflow.infra.server_process import PrefectServer
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.discover import discover
from sightflow.tasks.route import resolve_enrichments
from tests.blocks.catalog.test_catalog import rows
from tests.e2e.test_incremental import flat

HEAVY = {
    "aiobotocore", "botocore", "dashscope", "distributed", "fastapi", "genai_prices", "google.genai",
    "huggingface_hub.hf_api", "openai", "pandera", "prefect", "s3fs", "sightflow.blocks.store.buckets.backend",
    "tenacity", "torch", "transformers",
}  # fmt: skip
PROGRAM = """
import json, sys
from sightflow.infra.cli import main
said = json.loads(sys.argv[1])
for words in said["commands"]:
    sys.argv = ["sightflow", *words]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (words, end.code)
    print("LOADED", json.dumps(sorted(set(said["heavy"]) & set(sys.modules))))
"""


def loaded(*commands: tuple[str, ...], heavy: set[str] = HEAVY, **environment: str) -> tuple[list[set[str]], str]:
    """The heavy libraries that a fresh process has loaded after each of these commands, and what they printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    said = json.dumps({"commands": commands, "heavy": sorted(heavy)})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, said],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    found = [set(json.loads(line.removeprefix("LOADED "))) for line in lines if line.startswith("LOADED ")]
    return found, "\n".join(line for line in lines if not line.startswith("LOADED "))


@pytest.fixture
def done(tmp_path: Path, write_spec: Any) -> Path:
    """A spec of the demo's model whose catalog is up to date."""
    media = tmp_path / "media"
    media.mkdir()
    for k in range(3):
        (media / f"{k}.png").write_bytes(flat((k, 20, 30)))
    path: Path = write_spec(f"{media}/*")
    spec = read_spec(path)
    ((resolved, _),) = (each for each in resolve_enrichments(spec) if each.resolved.media_kind == "image")
    found = discover.fn(spec).inventory.sort("uri")
    uris, versions = found["uri"], found["object_version"]
    same = {"recipe": resolved.recipe, "model_id": "florence-2", "media_kind": "image"}
    written = rows(range(3)).with_columns(
        uris, versions, inferred_at=found["modified"], **{name: pl.lit(value) for name, value in same.items()}
    )
    Catalog(uri=spec.catalog).publish(written)
    return path


def test_help_and_version_load_nothing_heavy() -> None:
    found, printed = loaded(("--help",), ("--version",), ("run", "--help"), heavy=HEAVY | {"deltalake", "duckdb"})
    assert found == [set()] * 3
    assert "sightflow 0." in printed


def test_what_reads_the_catalog_or_plans_loads_neither_prefect_nor_a_model_s_library(done: Path) -> None:
    catalog = str(done.parent / "catalog")
    commands = [
        ("catalog", "show", catalog),
        ("catalog", "history", catalog),
        ("catalog", "view", catalog),
        ("catalog", "diff", catalog, "1"),
        ("quarantine", "list", catalog),
        ("catalog", "query", catalog, "SELECT count(*) AS held FROM catalog", "--format", "json"),
        ("models",),
        ("route", "--capability", "captioning"),
        ("plan", str(done)),
    ]
    found, printed = loaded(*commands, PREFECT_HOME=str(done.parent / "none"))
    assert found == [set()] * len(commands)
    assert '{"held": 3}' in printed and "nothing to do" in printed


def test_a_command_loads_no_other_and_all_are_there_without_one() -> None:
    everything = set(get_command(command_line()).commands)  # type: ignore[attr-defined]
    assert len(everything) == 20 and set(get_command(command_line("no such command")).commands) == everything  # type: ignore[attr-defined]
    for name in everything:
        assert set(get_command(command_line(name)).commands) == {name}  # type: ignore[attr-defined]
    heavy = {f"sightflow.infra.cli.{other}" for other in ("demo", "doctor", "gallery", "budget", "serving.serve")}
    assert loaded(("run", "--help"), heavy=heavy)[0] == [set()]


def test_garbage_is_collected_again_after_the_first_seconds() -> None:
    program = "import gc, time; from sightflow.infra.cli import _collect_later; _collect_later()\n"
    program += "assert not gc.isenabled()\nwhile not gc.isenabled(): time.sleep(0.1)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_run_with_nothing_to_do_is_over_before_prefect_is_loaded(done: Path) -> None:
    asked = ("run", str(done), "--json")
    found, printed = loaded(asked, PREFECT_HOME=str(done.parent / "none"))
    assert found == [set()]
    report = json.loads(printed)
    assert (report["objects"], report["unchanged"], report["commits"], report["catalog_version"]) == (3, 3, 0, 1)
    assert report["run_id"] and set(report["start"]["steps"]) == {"imports", "listing", "planning"}


def test_a_server_that_is_configured_is_told_of_a_run_with_nothing_to_do(
    done: Path, prefect_server: PrefectServer
) -> None:
    def runs() -> int:
        url = f"{prefect_server.api_url}/flow_runs/count"
        return int(httpx.post(url, json={}, auth=prefect_server.credentials, timeout=60).json())

    before = runs()
    found, printed = loaded(("run", str(done), "--json"), **prefect_server.client_environment)
    assert json.loads(printed)["commits"] == 0 and "prefect" in found[0] and "torch" not in found[0]
    assert runs() == before + 1


PLACES = {
    "nothing": ({}, {}, False),
    "variable": ({"PREFECT_API_URL": "http://127.0.0.1:1/api"}, {}, True),
    "small letters": ({"prefect_api_url": "http://127.0.0.1:1/api"}, {}, True),
    "empty variable": ({"PREFECT_API_URL": ""}, {}, False),
    "profile of the package": ({"PREFECT_PROFILE": "local"}, {}, True),
    ".env": ({}, {".env": "PREFECT_API_URL=http://127.0.0.1:1/api"}, True),
    "prefect.toml": ({}, {"prefect.toml": '[api]\nurl = "http://127.0.0.1:1/api"'}, True),
    "pyproject.toml": ({}, {"pyproject.toml": '[tool.prefect.api]\nurl = "http://127.0.0.1:1/api"'}, True),
    "another's pyproject.toml": ({}, {"pyproject.toml": '[project]\nname = "x"'}, False),
    "profile": (
        {},
        {"home/profiles.toml": 'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://127.0.0.1:1/api"'},
        True,
    ),
    "another profile": (
        {},
        {"home/profiles.toml": 'active = "mine"\n[profiles.mine]\n[profiles.b]\nPREFECT_API_URL = "http://b/api"'},
        False,
    ),
    "broken profiles": ({}, {"home/profiles.toml": "active = "}, True),
}
LOOK = """
import json, os, sys
from sightflow.infra.configured_server import _may_be_configured, configured_url
for place, variables in json.loads(sys.argv[1]):
    os.chdir(place)
    os.environ.update(variables)
    print(_may_be_configured(), configured_url() if not _may_be_configured() else "")
    for name in variables:
        del os.environ[name]
assert "prefect" not in sys.modules
"""


def test_prefect_is_asked_for_its_server_wherever_it_might_know_one_and_else_is_not_loaded(tmp_path: Path) -> None:
    cases = []
    for number, (variables, files, _) in enumerate(PLACES.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        for path, text in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text)
        cases.append((str(folder), {"PREFECT_HOME": str(folder / "home"), **variables}))
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("PREFECT_")}
    command = [sys.executable, "-c", LOOK, json.dumps(cases)]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, check=True)
    answers = dict(zip(PLACES, done.stdout.splitlines(), strict=True))
    assert answers == {name: "True " if known else "False None" for name, (_, _, known) in PLACES.items()}
