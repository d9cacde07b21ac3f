"""The command line as a person or a script meets it: what it prints, what it refuses, how it exits."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.infra.server_process import PrefectServer
from sightflow.schemas.spec_reader import read_spec
from tests.e2e.test_incremental import flat

HOSTILE = "\x1b[2J[red]name\x07.png"


def sightflow(*words: str, folder: Path | None = None, real: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the program; unless `real`, with the stand-in in place of Florence-2."""
    module = "sightflow.infra.cli" if real else "tests.stand_in_cli"
    start = "from sightflow.infra.cli import main; main()"
    command = [sys.executable, "-c", start, *words] if real else [sys.executable, "-m", module, *words]
    environment = {**os.environ, "COLUMNS": "400", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture
def spec(tmp_path: Path, write_spec: Any) -> Path:
    media = tmp_path / "media"
    media.mkdir()
    for k in range(5):
        (media / f"{k}.png").write_bytes(flat((k, 20, 30)))
    (media / HOSTILE).write_bytes(b"")
    path: Path = write_spec(f"{media}/*", models={})
    return path


@pytest.mark.usefixtures("prefect_server")
def test_plan_run_and_a_look_at_what_came(spec: Path) -> None:
    planned = sightflow("plan", str(spec), "--json")
    document = json.loads(planned.stdout)
    assert (planned.returncode, document["objects"], document["to_compute"]) == (0, 6, 6)
    assert document["enrichments"][0]["route"]["candidates"][0]["why"]
    done = sightflow("run", str(spec))
    assert done.returncode == 0, done.stderr
    assert "5 published" in done.stdout and "next: " in done.stdout
    catalog = str(spec.parent / "catalog")
    assert "image_captioning" in sightflow("catalog", "show", catalog).stdout
    rows = sightflow("catalog", "query", catalog, "SELECT uri, caption FROM catalog ORDER BY uri", "--format", "json")
    said = [json.loads(line) for line in rows.stdout.splitlines()]
    assert [json.loads(row["caption"]) for row in said] == [[k, 20, 30] for k in range(5)]
    failed = sightflow("quarantine", "list", catalog)
    assert "unreadable" in failed.stdout
    for answer in (failed, done, sightflow("catalog", "history", catalog)):
        assert "\x1b" not in answer.stdout and "\x07" not in answer.stdout
        assert "Traceback" not in answer.stdout + answer.stderr
    assert "[red]name" in sightflow("quarantine", "list", catalog).stdout.replace("\n", "").replace(" ", "")
    again = sightflow("run", str(spec), "--json")
    assert json.loads(again.stdout)["commits"] == 0


@pytest.mark.usefixtures("prefect_server")
def test_versions_are_compared_and_brought_back(spec: Path) -> None:
    assert sightflow("run", str(spec)).returncode == 0
    catalog = str(spec.parent / "catalog")
    before = Catalog(uri=read_spec(spec).catalog).version()
    (spec.parent / "media" / "0.png").write_bytes(flat((200, 1, 1)))
    assert sightflow("run", str(spec)).returncode == 0
    after = Catalog(uri=read_spec(spec).catalog).version()
    assert after is not None and before is not None and after > before
    changed = sightflow("catalog", "diff", catalog, str(before), str(after))
    assert changed.returncode == 0 and "0.png" in changed.stdout
    assert sightflow("catalog", "restore", catalog, str(before)).returncode == 0
    texts = set(Catalog(uri=read_spec(spec).catalog).scan("enrichments").collect()["text"])
    assert "[200, 1, 1]" not in texts and "[0, 20, 30]" in texts


@pytest.mark.usefixtures("prefect_server")
def test_exit_codes(spec: Path, tmp_path: Path, write_spec: Any) -> None:
    strict = write_spec(f"{tmp_path}/media/*", models={}, policy={"max_quarantine_ratio": 0.0})
    over = sightflow("run", str(strict))
    assert over.returncode == 3 and "quarantine list" in over.stderr and "5 published" in over.stdout
    gone = write_spec(f"{tmp_path}/nowhere/*", models={})
    assert sightflow("plan", str(gone)).returncode == 1
    assert sightflow("no-such-command").returncode == 2


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"polcy": {}}, r"spec.yaml:\d+: polcy: is not a known key; did you mean policy\?"),
        ({"source": "ftp://bucket/*"}, r"spec.yaml:\d+: source: 'ftp://bucket/\*' has the scheme 'ftp'; allowed: s3"),
        ({"enrichments": [{"capability": "dancing"}]}, r"'dancing' is not a capability; allowed: image_captioning"),
        ({"enrichments": [{"capability": "vqa"}]}, "visual_question_answering needs question"),
        (
            {"enrichments": [{"capability": "detection", "model": "llava-next"}]},
            r"llava-next cannot do object_detection \(rated 0\)",
        ),
        ({"models": {"gpt-4o": {"api_key": "sk-1"}}, "enrichments": [{"capability": "captioning", "model": "gpt-4o"}]},
         "a spec holds no keys"),
        ({"store": {"endpoint_url": "http://me:pass-word@minio:9000"}}, "store.endpoint_url: holds a user name or a"),
        ({"store": {"endpoint_url": "minio:9000"}}, "store.endpoint_url: is no address of a server"),
    ],
)  # fmt: skip
def test_a_wrong_spec_is_refused_before_anything_is_listed(
    section: dict[str, Any], says: str, tmp_path: Path, write_spec: Any
) -> None:
    import re

    sections = {"models": {}, **section}
    path = write_spec(sections.pop("source", f"{tmp_path}/nowhere/*"), **sections)
    refused = sightflow("plan", str(path), real=True)
    assert refused.returncode == 2
    assert re.search(says, " ".join(refused.stderr.split())), refused.stderr
    assert "Traceback" not in refused.stderr and "pass-word" not in refused.stderr


def test_help_and_doctor_say_what_to_do(spec: Path) -> None:
    helped = sightflow("--help", real=True)
    assert helped.returncode == 0
    for word in ("demo", "plan", "run", "catalog", "quarantine", "models", "route", "doctor", "Exit codes"):
        assert word in helped.stdout
    listed = sightflow("models", real=True)
    for system in ("llava-next", "florence-2", "video-llava", "qwen2-vl", "gpt-4o", "gemini", "qwen-vl-max"):
        assert system in listed.stdout
    explained = sightflow("route", "--capability", "tracking", real=True)
    assert explained.returncode == 0 and "policy.hosted is deny" in " ".join(explained.stdout.split())
    healthy = sightflow("doctor", str(spec))
    assert healthy.returncode == 0 and "served by florence-2" in healthy.stdout and "can be listed" in healthy.stdout
    spec.write_text(spec.read_text().replace("/media/", "/nowhere/"))
    ill = sightflow("doctor", str(spec))
    assert ill.returncode == 1 and "there is no folder" in ill.stdout


def test_options_that_would_be_passed_over_are_heeded_or_refused(spec: Path) -> None:
    chosen = sightflow("route", "--capability", "tracking", "--spec", str(spec), "--hosted", real=True)
    assert chosen.returncode == 0 and "policy.hosted is deny" not in " ".join(chosen.stdout.split())
    refused = sightflow("replay", str(spec), "--spec", str(spec), real=True)
    assert refused.returncode == 2 and "go with the URI of a catalog" in " ".join(refused.stderr.split())


def test_the_doctor_sees_that_a_server_refuses_the_password(
    prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in prefect_server.client_environment.items():
        monkeypatch.setenv(name, value)
    assert sightflow("doctor", real=True).returncode == 0
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "sightflow:another")
    ill = sightflow("doctor", real=True)
    assert ill.returncode == 1 and "refuses the credentials" in " ".join(ill.stdout.split())
