"""The wheel in a fresh environment, used from a project that has folders of the same names."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sightflow.infra.server_process import PrefectServer
from tests.e2e.test_incremental import flat
from tests.installed import ROOT, Installed

FLOW = """
from prefect import flow
from tasks.naming import title
import sightflow
from sightflow.flows.enrich import enrich
from sightflow.schemas.spec import EnrichmentSpec

@flow(name=title("nightly"))
def nightly(spec: dict) -> int:
    return enrich(EnrichmentSpec.model_validate(spec)).published
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's Prefect project, which has `flows`, `tasks` and `blocks` of its own."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("flows", "tasks", "blocks"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("")
    (folder / "tasks" / "naming.py").write_text("def title(name): return f'our {name}'\n")
    (folder / "flows" / "nightly.py").write_text(FLOW)
    (folder / "blocks" / "__init__.py").write_text("OURS = True\n")
    return folder


def test_it_adds_exactly_one_name(installed: Installed) -> None:
    assert {name for name in installed.names() if not name.endswith(".dist-info")} == {"sightflow"}


def test_the_secrets_of_a_checkout_are_in_no_wheel_and_no_image(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("src", "schemas", "blocks", "tasks", "flows", "infra"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, checkout)
    (checkout / "infra" / ".env").write_text("SIGHTFLOW_WEBHOOK_TOKEN=secret\n")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=checkout, check=True)
    (built,) = (checkout / "dist").glob("*.whl")
    with zipfile.ZipFile(built) as wheel:
        names = wheel.namelist()
    assert "sightflow/infra/compose.yaml" in names and not [name for name in names if name.endswith(".env")]
    # What is taken back last counts: https://docs.docker.com/build/concepts/context/#dockerignore-files
    assert (ROOT / ".dockerignore").read_text().splitlines()[-1] == "**/.env"


def test_the_users_modules_and_ours_are_told_apart(installed: Installed, project: Path) -> None:
    program = (
        "import json, blocks, tasks, flows.nightly, sightflow, sightflow.tasks, sightflow.blocks as ours; "
        "print(json.dumps([blocks.OURS, tasks.__file__, sightflow.__file__, ours.Catalog.__module__]))"
    )
    done = installed.run(installed.python, "-c", program, cwd=project)
    assert done.returncode == 0, done.stderr
    is_theirs, tasks, package, module = json.loads(done.stdout)
    assert is_theirs and Path(tasks).is_relative_to(project)
    assert Path(package).is_relative_to(installed.folder)
    assert module == "sightflow.blocks"


def test_the_command_starts_there(installed: Installed, project: Path) -> None:
    done = installed.run(installed.program, "--version", cwd=project)
    assert (done.returncode, done.stdout) == (0, "sightflow 0.1.0\n"), done.stderr


def test_types_are_told_to_checkers(installed: Installed) -> None:
    assert (next(installed.folder.glob("lib/python*/site-packages")) / "sightflow" / "py.typed").is_file()


def test_a_flow_of_the_users_runs_ours(
    installed: Installed, project: Path, prefect_server: PrefectServer, write_spec: Any, tmp_path: Path
) -> None:
    from sightflow.schemas.spec_reader import read_spec

    media = tmp_path / "media"
    media.mkdir()
    (media / "red.png").write_bytes(flat((200, 20, 30)))
    spec = read_spec(write_spec(f"{media}/*")).model_dump(mode="json")
    program = (
        f"import json; from flows.nightly import nightly; print('rows', nightly(json.loads({json.dumps(spec)!r})))"
    )
    done = installed.run(installed.python, "-c", program, cwd=project, **prefect_server.client_environment)
    assert done.returncode == 0, done.stderr
    assert "rows 1" in done.stdout


@pytest.mark.parametrize("entrypoint", ["flows/nightly.py:nightly", "sightflow.flows.enrich.enrich"])
def test_prefect_deploy_takes_their_flows_and_ours(
    installed: Installed, project: Path, prefect_server: PrefectServer, entrypoint: str
) -> None:
    prefect = (installed.python, "-m", "prefect")
    api = prefect_server.client_environment
    pool = installed.run(
        *prefect, "work-pool", "create", "--overwrite", "--type", "process", "wheels", cwd=project, **api
    )
    assert pool.returncode == 0, pool.stderr
    name = "theirs" if "/" in entrypoint else "ours"
    words = ("--no-prompt", "deploy", entrypoint, "--name", name, "--pool", "wheels")
    done = installed.run(*prefect, *words, cwd=project, **api)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"/{name}' successfully created" in " ".join(done.stdout.split()), done.stdout
