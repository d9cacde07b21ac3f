"""The containers are started elsewhere; here they are held to the schemas and rules of those who start them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sightflow.schemas.spec_reader import read_spec
from tests.command_line import app

INFRA = Path(__file__).parents[2] / "infra"
BIN = Path(sys.executable).parent
MANIFESTS = sorted((INFRA / "kubernetes").glob("*.yaml"))
COMPOSE = [INFRA / "compose.yaml", INFRA / "compose.gpu.yaml"]


def checked(*command: str) -> str:
    done = subprocess.run([BIN / command[0], *command[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_files_keep_to_the_compose_specification(path: Path) -> None:
    checked("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(path))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_keep_to_the_schemas_of_kubernetes(path: Path) -> None:
    assert "passed" in checked("kubernetes-validate", "--strict", str(path))


def test_the_dockerfile_has_nothing_that_hadolint_would_change() -> None:
    assert checked("hadolint", "--failure-threshold", "info", str(INFRA / "Dockerfile")) == ""


def test_a_wrong_manifest_would_be_seen(tmp_path: Path) -> None:
    wrong = tmp_path / "worker.yaml"
    wrong.write_text((INFRA / "kubernetes" / "worker.yaml").read_text().replace("replicas: 1", "replica: 1"))
    assert subprocess.run([BIN / "kubernetes-validate", "--strict", wrong], capture_output=True).returncode != 0


def started() -> list[tuple[str, list[str]]]:
    """What the containers start: the file and the arguments of `sightflow`."""
    found = []
    services = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
    for name in ("deploy", "worker", "bridge"):
        found.append((f"compose {name}", services[name]["command"]))
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] == "Deployment":
                (container,) = document["spec"]["template"]["spec"]["containers"]
                found.append((path.name, container["args"]))
    return found


@pytest.mark.parametrize(("where", "arguments"), started(), ids=lambda value: value if isinstance(value, str) else "")
def test_what_containers_start_is_a_command_with_options_that_it_has(where: str, arguments: list[str]) -> None:
    from typer.main import get_command

    command = get_command(app).commands[arguments[0]]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("--")} <= known


def test_the_specs_that_come_along_can_be_read(tmp_path: Path) -> None:
    read_spec(INFRA / "compose.spec.yaml")
    (configuration, _) = yaml.safe_load_all((INFRA / "kubernetes" / "configuration.yaml").read_text())
    spec = tmp_path / "media.yaml"
    spec.write_text(configuration["data"]["media.yaml"])
    read_spec(spec)


def test_every_variable_that_compose_asks_for_is_in_the_example_of_the_environment() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (INFRA / "compose.yaml").read_text()))
    given = dict(line.split("=") for line in (INFRA / "compose.env.example").read_text().splitlines() if "=" in line)
    assert asked == set(given) and not any(given.values())


def test_without_a_gpu_everything_but_cuda_is_installed_as_it_is_locked() -> None:
    from sightflow.infra.cpu_requirements import entries, torch_pins, without_cuda

    lock = (INFRA.parent / "requirements.lock").read_text()
    everything = {name: text for name, _, text in entries(lock)}
    kept = {name: text for name, _, text in entries(without_cuda(lock))}
    gone = set(everything) - set(kept)
    assert {"torch", "torchvision", "triton"} < gone
    assert all(name.startswith(("nvidia-", "cuda-")) for name in gone - {"torch", "torchvision", "triton"})
    assert all(everything[name] == text and "--hash=sha256:" in text for name, text in kept.items())
    assert not any("nvidia" in text.partition("# via")[0] for text in kept.values())
    assert [pin.partition("==")[0] for pin in torch_pins(lock).split()] == ["torch", "torchvision"]
    dockerfile = (INFRA / "Dockerfile").read_text()
    assert "--torch-backend cpu" in dockerfile and "cpu_requirements.py requirements.lock" in dockerfile
