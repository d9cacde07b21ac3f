"""Without extras everything that needs none works, and what is missing is named with the command that installs it."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks import extras
from sightflow.blocks.extras import install_command, is_installed, require
from sightflow.blocks.models.engines.factory import OPEN_WEIGHTS_ENGINES, VENDOR_ENGINES
from sightflow.schemas.failure import MissingExtra
from sightflow.schemas.spec import RunnerSettings
from sightflow.tasks.runtime import task_runner

ROOT = Path(__file__).parents[2]
OPTIONAL = (
    "accelerate", "azure", "dashscope", "dask", "distributed", "google", "huggingface_hub", "moto", "openai",
    "prefect_dask", "requests", "safetensors", "sentencepiece", "tiktoken", "torch", "torchvision", "transformers",
)  # fmt: skip
WITHOUT = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def sightflow(tmp_path: Path) -> Any:
    """The command in an environment where no optional package can be imported."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WITHOUT)
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
    environment |= {"PYTHONPATH": str(site), "COLUMNS": "400"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from sightflow.infra.cli import main; main()", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run


def declared() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return dict(project["optional-dependencies"])


def test_every_engine_names_an_extra_that_there_is() -> None:
    entries = [*OPEN_WEIGHTS_ENGINES.values(), *VENDOR_ENGINES.values()]
    assert {entry.extra for entry in entries} <= set(declared())
    assert all(is_installed(entry.package) for entry in entries)


def test_all_holds_every_extra_but_the_one_that_needs_an_environment_of_its_own() -> None:
    (everything,) = declared()["all"]
    assert set(everything.removeprefix("sightflow[").removesuffix("]").split(",")) == set(declared()) - {"all", "vllm"}


def test_what_is_missing_is_named_with_its_command() -> None:
    require("polars", "local", "this")
    with pytest.raises(MissingExtra, match=r"needs no_such_package, which .* run: pip install 'sightflow\[dask\]'"):
        require("no_such_package", "dask", "this")
    assert not is_installed("google.no_such_package") and not is_installed("no_such_namespace.part")


def test_every_system_says_what_to_install(sightflow: Any) -> None:
    done = sightflow("models")
    assert done.returncode == 0, done.stderr
    extras = {"florence-2": "local", "gpt-4o": "openai", "gemini": "gemini", "qwen-vl-max": "dashscope"}
    for system, extra in extras.items():
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{system}: ")]
        assert install_command(extra) in line


def test_the_doctor_tells_what_is_not_here_from_what_is_broken(sightflow: Any) -> None:
    done = sightflow("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(install_command(extra) in done.stdout for extra in ("local", "openai", "gemini", "dashscope")), (
        done.stdout
    )


def test_a_spec_that_needs_one_is_refused_with_the_command(sightflow: Any, write_spec: Any, tmp_path: Path) -> None:
    spec = write_spec(f"{tmp_path}/*.png")
    done = sightflow("plan", str(spec))
    assert done.returncode == 2 and install_command("local") in done.stderr


def test_the_demo_is_refused_with_the_command(sightflow: Any) -> None:
    done = sightflow("demo")
    assert done.returncode == 1 and install_command("demo") in done.stderr


def test_dask_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda package: package not in ("distributed", "prefect_dask"))
    with pytest.raises(MissingExtra, match=re.escape(install_command("dask"))):
        task_runner._runner(RunnerSettings(kind="dask"))


def test_help_and_a_catalog_need_none(sightflow: Any, tmp_path: Path) -> None:
    from sightflow.blocks.catalog.catalog import Catalog
    from tests.blocks.catalog.test_catalog import rows

    Catalog(uri=f"file://{tmp_path}/catalog").publish(rows(range(2)))
    assert sightflow("--help").returncode == 0
    sql = "SELECT count(*) AS n FROM enrichments"
    done = sightflow("catalog", "query", f"{tmp_path}/catalog", sql, "--format", "json")
    assert done.stdout == '{"n": 2}\n', done.stderr
