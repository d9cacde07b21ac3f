"""A reader's own SQL, in a process of its own: `sightflow catalog query` with its sandbox, ended when it takes long.

It costs this server neither its memory nor its life.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any, Final

from sightflow.infra.gallery.visible_text import visible

MOST_ROWS: Final = 200
_SECONDS: Final = 30
_GRACE_SECONDS: Final = 10
_MOST_BYTES: Final = 4 * 2**20
_LONGEST_SQL: Final = 20_000
_PROGRAM: Final = "from sightflow.infra.cli import main; main()"
_AT_ONCE: Final = threading.BoundedSemaphore(2)


@dataclass(frozen=True)
class Answer:
    """The first rows of a query, each a mapping of its columns; or what is wrong with it."""

    columns: tuple[str, ...] = ()
    rows: list[dict[str, Any]] = field(default_factory=list)
    is_cut: bool = False
    error: str | None = None


def run_sql(catalog: str, endpoint_url: str | None, sql: str) -> Answer:
    """Ask a catalog, named as on the command line. It takes half a minute at most."""
    if len(sql) > _LONGEST_SQL:
        return Answer(error=f"a query has at most {_LONGEST_SQL:,} characters here")
    options = ["--format", "json", "--timeout", str(_SECONDS)]
    options += ["--endpoint-url", endpoint_url] if endpoint_url else []
    command = [sys.executable, "-c", _PROGRAM, "catalog", "query", *options, "--", catalog, sql]
    with _AT_ONCE, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        end = threading.Timer(_SECONDS + _GRACE_SECONDS, process.kill)
        end.start()
        try:
            return _answer(process)
        finally:
            end.cancel()
            process.kill()


def _answer(process: subprocess.Popen[bytes]) -> Answer:
    assert process.stdout is not None and process.stderr is not None
    lines, read, is_cut = list[bytes](), 0, False
    while line := process.stdout.readline(_MOST_BYTES):
        read += len(line)
        is_whole = line.endswith(b"\n")
        is_cut = len(lines) == MOST_ROWS or read > _MOST_BYTES or not is_whole
        if not (is_whole or lines):
            return Answer(error=f"a row has more than {_MOST_BYTES:,} bytes; select fewer columns, or left(text, 100)")
        if is_cut:
            break
        lines.append(line)
    if not is_cut:
        said = process.stderr.read(_MOST_BYTES).decode("utf-8", "replace").strip()
        if process.wait() != 0:
            return Answer(error=visible(said.removeprefix("error ")) or "the query was ended")
    rows = [json.loads(line) for line in lines]
    columns = tuple(dict.fromkeys(name for row in rows[:1] for name in row))
    return Answer(columns, rows, is_cut)
