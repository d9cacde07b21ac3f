"""Labels out of lines of JSON and CSV: a row each, with `uri`, `enrichment` and the columns of a result."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sightflow.blocks.exports.label_files.found import (
    Facts,
    FoundLabel,
    UnreadableLabels,
    WrongLabel,
    lines_of,
    read_text,
)
from sightflow.schemas.tables.labels import RESULT_COLUMNS

_NESTED = frozenset({"segments", "regions", "tracks"})


def read_json_lines(path: Path) -> Iterator[FoundLabel]:
    """The rows of a file, or of each `*.jsonl` in a folder."""
    for file in _files(path, "jsonl"):
        for line, place in lines_of(file):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise UnreadableLabels(f"{place} is no JSON object")
            yield _found(row, place, lambda value: value)


def read_csv(path: Path) -> Iterator[FoundLabel]:
    """The rows of a file with a head, or of each `*.csv` in a folder; nested columns are JSON, an empty cell is
    none.
    """
    for file in _files(path, "csv"):
        csv.field_size_limit(64 * 2**20)
        reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
        try:
            for row in reader:
                if None in row:  # an unquoted comma: what follows it would be lost
                    raise UnreadableLabels(
                        f"{file}:{reader.line_num} has more cells than the head; put text with commas in quotes"
                    )
                yield _found(row, f"{file}:{reader.line_num}", _cell)
        except csv.Error as error:
            raise UnreadableLabels(f"{file}:{reader.line_num} is no CSV: {error}") from None


def _files(path: Path, suffix: str) -> list[Path]:
    files = sorted(path.glob(f"rows-*.{suffix}")) if path.is_dir() else [path]
    if not files:
        raise UnreadableLabels(f"{path} has no rows-*.{suffix}; name a file, or the folder of an export")
    return files


def _found(row: Mapping[str, Any], place: str, value: Any) -> FoundLabel:
    uri, enrichment = row.get("uri"), row.get("enrichment")
    if not isinstance(uri, str) or not value(uri):
        raise UnreadableLabels(f"{place} has no `uri`")
    version = row.get("object_version")
    return FoundLabel(
        value(uri),
        enrichment if isinstance(enrichment, str) else "",
        partial(_result, {name: row.get(name) for name in RESULT_COLUMNS}, value),
        place,
        version if isinstance(version, str) else None,
    )


def _result(given: Mapping[str, Any], value: Any, facts: Facts) -> dict[str, Any]:
    result = {name: value(each) if isinstance(each, str) else each for name, each in given.items()}
    for name in _NESTED:
        if isinstance(result[name], str):
            try:
                result[name] = json.loads(result[name])
            except (ValueError, RecursionError):
                raise WrongLabel(f"{name} is no JSON") from None
    return result


def _cell(text: str | None) -> str | None:
    """A cell as it was before an apostrophe kept it from being a formula."""
    return None if not text else text.removeprefix("'")
