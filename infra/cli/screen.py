"""What the commands share on the screen: the console, errors in plain words, tables. No key reaches it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TextIO

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from sightflow.schemas.failure import SightflowError, SpecError
from sightflow.schemas.redaction import redact, redacted_traceback, redactor


class RedactingConsole(Console):
    """A console that shows no key."""

    def print(self, *objects: Any, **settings: Any) -> None:
        super().print(*(redact(each) if isinstance(each, str) else each for each in objects), **settings)

    def print_json(self, json: str | None = None, **settings: Any) -> None:
        super().print_json(json and redact(json), **settings)


console = RedactingConsole(highlight=False)
problems = RedactingConsole(stderr=True, highlight=False)
_LEAST_LAST_COLUMN = 20


class RedactedStream:
    """A text stream without keys: what is written to it goes on to another one redacted, piece by piece."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Commands(TyperGroup):
    """Turns errors into one clear message and the right exit code; SIGHTFLOW_DEBUG=1 shows the traceback too."""

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        try:
            return super().make_context(*arguments, **settings)
        except Exception as error:
            _redact_usage_error(error)
            raise

    def invoke(self, ctx: Any) -> Any:
        from sightflow.schemas.run.report import QuarantineExceeded

        try:
            return super().invoke(ctx)
        except SightflowError as error:
            _show_traceback(error)
            code = 2 if isinstance(error, SpecError) else 3 if isinstance(error, QuarantineExceeded) else 1
            problems.print(f"[red]error[/red] {safe_lines(error)}", soft_wrap=True)
            raise typer.Exit(code) from None
        except KeyboardInterrupt:
            problems.print("interrupted; what was committed stays, and the next run goes on from there")
            raise typer.Exit(1) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if type(error).__module__.startswith(("click", "typer")):
                _redact_usage_error(error)
                raise
            _show_traceback(error)
            problems.print(
                f"[red]error[/red] {safe(type(error).__name__)}: {safe_lines(error)}\n"
                "This is not a mistake of yours that sightflow knows. Set SIGHTFLOW_DEBUG=1 for the traceback.",
                soft_wrap=True,
            )
            raise typer.Exit(1) from None


def _redact_usage_error(error: Exception) -> None:
    """Take keys out of what typer says of wrong words on the command line, before it is folded into a panel."""
    if isinstance(message := getattr(error, "message", None), str):
        error.message = redact(message)  # type: ignore[attr-defined]


def _show_traceback(error: Exception) -> None:
    if os.environ.get("SIGHTFLOW_DEBUG"):
        print(redacted_traceback(error), file=sys.stderr)


def flag(*names: str, help: str) -> Any:
    """An option that is given or not: its help names no type."""
    return typer.Option(*names, metavar="", help=help)


def command(*words: object) -> str:
    """A command as it can be pasted into a shell, whatever characters its words hold."""
    return shlex.join(map(str, words))


def show_next(*words: object, why: str = "") -> None:
    """Print the next command to type."""
    console.print(f"next: [bold]{safe(command(*words))}[/bold]{safe(why)}", soft_wrap=True)


def show_table(title: str, *columns: str, rows: Iterable[Iterable[object]], right: tuple[str, ...] = ()) -> None:
    """Print a table whose cells are shown as they are, whatever markup or control characters they hold.

    Nothing in it is folded: where a terminal is too narrow for all columns but the last, each row is a record with a
    line a column, and the terminal itself wraps what is longer.
    """
    clean = redactor()
    cells = [[printable(clean(str(cell))) for cell in row] for row in rows]
    heads = [printable(redact(column)) for column in columns]
    if title:
        console.print(f"[italic]{safe(title)}[/italic]", soft_wrap=True)
    widths = [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]
    fits = sum(widths[:-1]) + 2 * len(widths[:-1]) + _LEAST_LAST_COLUMN <= console.width or sum(widths) <= console.width
    lines = _aligned(heads, cells, widths, right) if fits or not console.is_terminal else _records(heads, cells)
    for line in lines:
        console.print(line, soft_wrap=True)


def _aligned(
    heads: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[str]
) -> Iterator[str]:
    """The lines of a table, as markup."""
    if any(heads):
        yield f"[bold]{escape(_row(heads, heads, widths, right))}[/bold]"
        yield "─" * min(sum(widths) + 2 * (len(widths) - 1), console.width)
    for row in rows:
        yield escape(_row(row, heads, widths, right))


def _row(cells: Sequence[str], heads: Sequence[str], widths: Sequence[int], right: Sequence[str]) -> str:
    padded = []
    for cell, head, width in zip(cells, heads, widths, strict=True):
        room = " " * (width - cell_len(cell))
        padded.append(room + cell if head in right else cell + room)
    return "  ".join(padded).rstrip()


def _records(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Each row as lines of a head and a cell, as markup; a line of its own between two rows."""
    width = max(map(cell_len, heads))
    for k, row in enumerate(rows):
        yield from [""] if k else []
        for head, cell in zip(heads, row, strict=True):
            yield f"[bold]{escape(head)}[/bold]{' ' * (width - cell_len(head))}  {escape(cell)}".rstrip()


def safe(value: object) -> str:
    """Text that cannot steer the terminal: control characters and markup of file names and models are escaped.

    Keys are taken out, before the text is folded or cut.
    """
    return escape(printable(redact(str(value))))


def safe_lines(value: object) -> str:
    """As `safe`, for text of our own that may have several lines and may quote anything."""
    return "\n".join(map(safe, str(value).splitlines()))


def printable(text: str) -> str:
    """Text with what is not printable in escaped form."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(what: str) -> None:
    """One line of a long-running command, with its time."""
    console.print(f"{datetime.now():%H:%M:%S} {safe(what)}", soft_wrap=True)


def is_terminal() -> bool:
    """Whether a person is watching."""
    return sys.stdout.isatty()
