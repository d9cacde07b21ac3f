"""One SQL query over a catalog: asked within a bound of time, answered as a table, as lines of JSON or as CSV."""

from __future__ import annotations

import base64
import csv
import json
import math
import os
import re
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from functools import partial
from itertools import chain, count, islice
from threading import Timer
from typing import TYPE_CHECKING, Any

from sightflow.infra.cli.screen import console, printable, problems, show_table
from sightflow.schemas.failure import SpecError

if TYPE_CHECKING:
    import duckdb

_BATCH = 1000
_MOST_IN_TABLE = 1000
_WIDEST_CELL = 160
_GRACE_SECONDS = 1.0
_BOX = ("x_min", "y_min", "x_max", "y_max")
_FORMULA_STARTS = frozenset("=+-@\N{MINUS SIGN}")
_IGNORED_AT_THE_START = re.compile("[\\s\\x00\\ufeff\\u200b]*")


class Query:
    """A query that has been begun, and its rows as they come.

    `seconds`: what DuckDB may take for all of it; the time that the reader of the output takes does not count.
    Raises SpecError if the query is wrong or takes longer, here or while its rows are read.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, sql: str, seconds: int) -> None:
        self._connection, self._seconds, self._left = connection, seconds, float(seconds)
        with self._timed():
            connection.execute(sql)
        if not connection.description:
            raise SpecError("the query asks for nothing; e.g. SELECT * FROM catalog LIMIT 5")
        self.names = distinct([column[0] for column in connection.description])

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Each row once."""
        while batch := self._fetch():
            yield from batch

    def _fetch(self) -> list[tuple[Any, ...]]:
        with self._timed():
            return self._connection.fetchmany(_BATCH)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        import duckdb

        # DuckDB heeds an interrupt between two parts of its work, and one call of a function can take for ever.
        timers = [
            Timer(max(self._left, 0), self._connection.interrupt),
            Timer(max(self._left, 0) + _GRACE_SECONDS, partial(_end_process, self._too_slow)),
        ]
        for timer in timers:
            timer.daemon = True
            timer.start()
        began = time.monotonic()
        try:
            yield
        except duckdb.InterruptException:
            raise SpecError(self._too_slow) from None
        finally:
            for timer in timers:
                timer.cancel()
                timer.join()
            self._left -= time.monotonic() - began

    @property
    def _too_slow(self) -> str:
        return f"the query took longer than {self._seconds:,} seconds; narrow it, or raise --timeout"


def _end_process(why: str) -> None:
    problems.print(f"[red]error[/red] {why}", soft_wrap=True)
    sys.stderr.flush()
    os._exit(2)


def distinct(names: Sequence[str]) -> list[str]:
    """The names of columns, each once: the second `a` is `a_2`."""
    taken, result = set(names), list[str]()
    for name in names:
        fresh = name
        if fresh in result:
            fresh = next(other for n in count(2) if (other := f"{name}_{n}") not in taken)
        taken.add(fresh)
        result.append(fresh)
    return result


# --- the formats ------------------------------------------------------------------------------------


def print_json(names: Sequence[str], rows: Iterable[Sequence[Any]], watched: bool) -> None:
    """One object a line; `watched`: on a terminal, and so without what could steer it."""
    for row in rows:
        line = json_text(dict(zip(names, row, strict=True)))
        print(printable(line) if watched else line)


def print_csv(names: Sequence[str], rows: Iterable[Sequence[Any]], watched: bool) -> None:
    """A head and a line a row (RFC 4180); `watched`: on a terminal, and so without what could steer it."""
    writer = csv.writer(sys.stdout)
    for row in chain([names], rows):
        cells = map(csv_cell, row)
        writer.writerow([printable(cell) if watched and isinstance(cell, str) else cell for cell in cells])


def print_table(names: Sequence[str], rows: Iterator[Sequence[Any]], watched: bool) -> None:
    """The first rows, boxes in short; `watched`: by a person on a terminal, and so with long text cut."""
    shown = list(islice(rows, _MOST_IN_TABLE))
    show_table("", *names, rows=([_table_cell(value, watched) for value in row] for row in shown))
    more = len(shown) == _MOST_IN_TABLE and next(rows, None) is not None
    console.print(f"the first {len(shown):,} rows; --format json or csv gives all" if more else f"{len(shown):,} rows")


def json_text(value: Any) -> str:
    """A value as strict JSON (RFC 8259)."""
    return json.dumps(_as_json(value), ensure_ascii=False, allow_nan=False)


def _as_json(value: Any) -> Any:
    """What JSON has no word for: NaN and infinity are null, times ISO 8601, bytes Base64, an decimal a number."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():  # DuckDB's are finite
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime() | date() | time_of_day():
            return value.isoformat()
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case Mapping():
            keys = distinct([key if isinstance(key, str) else json_text(key) for key in value])
            return dict(zip(keys, map(_as_json, value.values()), strict=True))
        case list() | tuple() | set():
            return [_as_json(each) for each in value]
    return str(value)


def csv_cell(value: Any) -> Any:
    """A number as it is, what is nested as JSON, all else as text that no spreadsheet takes for a formula."""
    if isinstance(value, Mapping | list | tuple | set):
        return json_text(value)
    plain = _as_json(value)
    if isinstance(plain, bool):
        return json_text(plain)
    return _no_formula(plain) if isinstance(plain, str) else plain


def _no_formula(text: str) -> str:
    """Text with an apostrophe in front if a spreadsheet would run it: OWASP, CSV Injection."""
    start = text[_IGNORED_AT_THE_START.match(text).end() :][:1]  # type: ignore[union-attr]
    runs = text[:1] in ("\t", "\r", "\n") or unicodedata.normalize("NFKC", start) in _FORMULA_STARTS
    return f"'{text}" if runs else text


def _table_cell(value: Any, cut: bool) -> str:
    if isinstance(value, list) and value and all(map(_is_region, value)):
        value = "; ".join(f"{r['label']} [{' '.join(f'{r[edge]:.0f}' for edge in _BOX)}]" for r in value)
    text = "" if value is None else str(value)
    return text[:_WIDEST_CELL] + "…" if cut and len(text) > _WIDEST_CELL else text


def _is_region(value: Any) -> bool:
    return isinstance(value, dict) and "label" in value and all(isinstance(value.get(edge), float) for edge in _BOX)
