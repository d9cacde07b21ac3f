"""What the commands print: nothing folded, every command as it can be pasted, progress where nobody watches."""

from __future__ import annotations

import io
import shlex
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from sightflow.infra.cli import run, screen
from sightflow.schemas.run.report import RunReport

LONG = "s3://bucket/a/folder of many parts/" + "x" * 120 + ".jpg"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a person sees on a terminal of 80 columns, before the terminal itself wraps what is longer."""
    written = io.StringIO()
    for name, value in (("_file", written), ("width", 80), ("_force_terminal", True), ("no_color", True)):
        monkeypatch.setattr(screen.console, name, value)
    monkeypatch.setattr(screen.console, "_color_system", None)
    return written


def test_a_table_that_fits_is_a_table(terminal: io.StringIO) -> None:
    screen.show_table("", "name", "rows", "model", rows=[("caption", "1,000", "m" * 40)], right=("rows",))
    assert plain(terminal) == ["name      rows  model", "─" * 56, f"caption  1,000  {'m' * 40}"]


def test_a_long_last_column_is_one_line_that_the_terminal_wraps(terminal: io.StringIO) -> None:
    screen.show_table("", "cause", "uri", rows=[("decode", LONG), ("fetch", "s3://b/k")])
    assert plain(terminal)[2:] == [f"decode  {LONG}", "fetch   s3://b/k"]


def test_rows_that_are_too_wide_are_records(terminal: io.StringIO) -> None:
    screen.show_table("", "uri", "caption", "系", rows=[(LONG, "a dog", 3), ("s3://b/k", "[red]", "")])
    first = [f"uri      {LONG}", "caption  a dog", "系       3"]
    assert plain(terminal) == [*first, "", "uri      s3://b/k", "caption  [red]", "系"]


def test_into_a_pipe_every_row_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    screen.show_table("", "uri", "caption", "n", rows=[(LONG, "猫 and a dog", 3), ("s3://b/k", "y", 12)], right=("n",))
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert rows[0].split("  ")[0] == LONG and len(rows) == 2
    assert cell_len(rows[0]) == cell_len(rows[1]) == cell_len(head)


@pytest.mark.parametrize("word", ["a b", "it's", '"x"', "$HOME", "a;rm -rf", "*", "[bold]", "é", ""])
def test_a_printed_command_can_be_pasted(terminal: io.StringIO, word: str) -> None:
    screen.show_next("sightflow", "catalog", "show", word)
    (line,) = plain(terminal)
    assert shlex.split(line.removeprefix("next: ")) == ["sightflow", "catalog", "show", word]


def plain(written: io.StringIO) -> list[str]:
    """The lines without what makes them bold."""
    text = written.getvalue()
    for code in ("\x1b[1m", "\x1b[0m", "\x1b[3m"):
        text = text.replace(code, "")
    return text.splitlines()


# --- progress ----------------------------------------------------------------------------------


class Planned:
    """A plan, as much of it as progress looks at."""

    to_compute = 200


def test_progress_into_a_pipe_comes_in_lines_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "_FIRST_LINE_SECONDS", 0.01)
    monkeypatch.setattr(run, "_LINE_SECONDS", 0.01)
    with run.progress() as watcher:
        watcher.say("listing the source")
        said = awaited(capsys, "listing the source")
        watcher.planned(Planned())  # type: ignore[arg-type]
        watcher.advanced(95, 5)
        said = awaited(capsys, "enriching: 100 of 200 (50%)")
    assert "5 failed" in said and "items/s" in said and " left" in said
    assert capsys.readouterr().out == ""


def awaited(capsys: pytest.CaptureFixture[str], words: str) -> str:
    """The first line on stderr with these words."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for line in capsys.readouterr().err.splitlines():
            if words in line:
                return line
        time.sleep(0.01)
    raise AssertionError(f"nobody said {words!r}")


# --- where the time went -----------------------------------------------------------------------


def report(**fields: Any) -> RunReport:
    counts = {"objects": 1, "planned": 1, "published": 1, "unchanged": 0, "orphaned": 0, "pruned": 0}
    now = datetime.now(UTC)
    return RunReport(run_id="r", catalog="s3://b/c d", started_at=now, finished_at=now, **(counts | fields))


def test_a_run_says_where_all_its_seconds_went() -> None:
    seconds = {"infer": 4.0, "model": 5.0, "fetch": 0.01, "other": 1.0}
    whole, most = run.time_lines(report(commits=1, wall_seconds=seconds))
    assert whole == "10.0 s in all: loading models 5.0, infer 4.0, other 1.0"
    assert most == "the largest part went to loading models, 50%"
    assert not list(run.time_lines(report(wall_seconds=seconds)))  # of a run with nothing to do nobody asks


# --- help --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("run",), ("plan",), ("quarantine", "list"), ("deploy",), ("route",)])
def test_a_flag_looks_like_one(command: tuple[str, ...]) -> None:
    from tests.command_line import app

    text = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "100"}).output
    flags = [line for line in text.splitlines() if any(name in line for name in ("--json", "--on-upload", "--hosted"))]
    assert flags and not any("<bool>" in line for line in flags)
