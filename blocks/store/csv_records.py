"""The records of CSV, one by one, so that a broken one costs no other."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

_MOST_LINES = 10  # of one record: more are a quote that was never closed


def text_lines(content: bytes) -> list[str | None]:
    """The lines of a text file that are not blank, without their ends; None for one that is not UTF-8."""
    return [
        _text(line.removesuffix(b"\r")) for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()
    ]


def csv_records(lines: Sequence[str | None]) -> Iterator[list[str] | None]:
    """The fields of each record, or None for what is no record. A quote that is not closed costs its line alone."""
    at = 0
    while at < len(lines):
        line, length = lines[at], 1
        while line and line.count('"') % 2 and length < _MOST_LINES and at + length < len(lines):
            line += f"\n{lines[at + length] or ''}"
            length += 1
        if line is None or line.count('"') % 2:
            yield None
            at += 1
            continue
        try:
            yield next(csv.reader([line] if length == 1 else io.StringIO(line, newline="")), None)
        except csv.Error:
            yield None
        at += length


def _text(line: bytes) -> str | None:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return None
