"""What is typed, configured or raised with a key in it is refused or shown without it; wrong words exit with 2."""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sightflow.infra.cli.screen import RedactedStream
from tests.command_line import app

KEYED = "http://me:canary-1@127.0.0.1:9"


@pytest.fixture
def spec(tmp_path: Path, write_spec: Any, stand_in: Any) -> str:
    return str(write_spec(f"{tmp_path}/media/*", models={}))


def typed(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "300"})


def refused(*words: str) -> str:
    """What is said of words that are no good."""
    done = typed(*words)
    assert done.exit_code == 2 and "canary" not in done.output
    return " ".join(done.output.split())


def test_an_address_with_a_password_is_refused_wherever_one_is_taken(spec: str) -> None:
    for command in ("serve", "bridge"):
        assert "leave them out: a queue is reached with the keys of" in refused(
            command, spec, "--queue", f"{KEYED}/queue"
        )
        assert "holds no user name and no password" in refused(command, spec, "--webhook", "me:canary-1@127.0.0.1:9")
    assert "holds no user name and no password" in refused(
        "serve", spec, "--interval", "9", "--metrics", "me:canary-1@h:9"
    )
    shown = refused("catalog", "show", "s3://bucket/catalog", "--endpoint-url", KEYED)
    assert "--endpoint-url: holds a user name or a password" in shown
    assert "--endpoint-url: is no address" in refused("catalog", "history", "s3://b/c", "--endpoint-url", "h:9")
    assert "no address of a queue" in refused("bridge", spec, "--queue", "sk-canary-123")
    assert "no address of a queue" in refused("bridge", spec, "--queue", "http://[half/q")


def test_wrong_words_are_repeated_without_keys(spec: str) -> None:
    assert "No such command '***'" in refused("sk-canary-123")
    assert "(***)" in refused("plan", spec, "sk-canary-123")
    assert "No such option: --***" in refused("plan", spec, "--sk-canary-123")
    assert "there is no such file" in refused("plan", f"{KEYED}/spec.yaml")
    assert "'***'" in refused("replay", spec, "--cause", "sk-canary-123")


def test_an_endpoint_beside_a_spec_is_refused_and_not_passed_over(spec: str) -> None:
    for command in (["catalog", "show", spec], ["catalog", "upkeep", spec], ["quarantine", "list", spec]):
        assert "--endpoint-url goes with a catalog's URI" in refused(*command, "--endpoint-url", "http://127.0.0.1:9")


def test_a_schedule_is_refused_before_anything_is_started(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr("sightflow.infra.prefect_server.PrefectServer", started)
    for command in ("serve", "deploy"):
        assert "is not understood" in refused(command, spec, "--cron", "99 2 * * *")
        assert "Invalid timezone" in refused(command, spec, "--cron", "0 2 * * *", "--timezone", "Mars/Base")
        assert "from 1 second" in refused(command, spec, "--interval", "nan")


@pytest.mark.parametrize("command", [["doctor"], ["worker"], ["deploy", "SPEC"], ["run", "SPEC"]], ids=lambda c: c[0])
def test_a_password_in_the_address_of_prefect_is_never_shown(
    command: list[str], spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.context import refresh_global_settings_context

    monkeypatch.setenv("PREFECT_API_URL", f"{KEYED}/api")
    refresh_global_settings_context()
    try:
        done = typed(*(spec if word == "SPEC" else word for word in command))
    finally:
        monkeypatch.undo()
        refresh_global_settings_context()
    assert done.exit_code == 1 and "canary" not in done.output
    assert "set PREFECT_API_AUTH_STRING" in " ".join(done.output.split())


@pytest.mark.parametrize("debug", ["", "1"])
def test_an_error_that_nobody_foresaw_is_shown_without_keys(debug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ValueError(f"cannot reach {KEYED} with Bearer canary-2")

    monkeypatch.setattr("sightflow.infra.cli.catalog.find_catalog", broken)
    monkeypatch.setenv("SIGHTFLOW_DEBUG", debug)
    done = typed("catalog", "history", "somewhere")
    assert done.exit_code == 1 and "canary" not in done.output
    assert "ValueError: cannot reach http://***@127.0.0.1:9 with Bearer ***" in done.output
    assert ("Traceback" in done.output) is bool(debug)


def test_what_libraries_write_to_the_screen_holds_no_keys(capsys: pytest.CaptureFixture[str]) -> None:
    stream: Any = RedactedStream(sys.stderr)
    print("asked", KEYED, file=stream)
    stream.writelines(["Authorization: Bearer canary\n", "fine\n"])
    assert stream.isatty() is False
    assert capsys.readouterr().err == "asked http://***@127.0.0.1:9\nAuthorization: Bearer ***\nfine\n"


@pytest.mark.parametrize(
    ("given", "objects"),
    [
        ("2026-10-31", 1),
        ("2026-11-01T00:00:00+02:00", 1),  # half an hour before it was written
        ("2026-11-01 01:00+02:00", 0),
        ("2026-10-31T22:30:00Z", 1),
        ("2026-10-31T22:30:01", 0),
        ("2026-11-01", 0),
    ],
)
def test_since_is_meant_with_its_offset_and_without_one_in_utc(
    given: str, objects: int, spec: str, tmp_path: Path
) -> None:
    (tmp_path / "media").mkdir()
    media = tmp_path / "media" / "a.png"
    media.write_bytes(b"x")
    written = datetime(2026, 10, 31, 22, 30, tzinfo=UTC).timestamp()
    os.utime(media, (written, written))
    planned = typed("plan", spec, "--since", given, "--json")
    assert json.loads(planned.stdout)["to_compute"] == objects


@pytest.mark.parametrize("given", ["yesterday", "", "2026-13-01", "0001-01-01T00:00+14:00", KEYED])
def test_what_is_no_time_is_refused(given: str, spec: str) -> None:
    assert "write 2026-11-01" in refused("plan", spec, "--since", given)
