"""Rows as they are, every column of them: Parquet, lines of JSON, and CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, ClassVar

import polars as pl
import polars.selectors as cs

from sightflow.blocks.exports.contract import Export, ExportFormat
from sightflow.blocks.exports.formats.hugging_face import plain_schema
from sightflow.blocks.exports.spreadsheet import no_formula

OBJECTS_A_FILE = 50_000
MEDIA = "media"


def _columns(export: Export) -> pl.Schema:
    """Those of the table; where media are copied, `file` says where below `media` that of a row lies."""
    columns = dict(export.selected.schema())
    return pl.Schema(columns | ({"file": pl.String()} if export.media.mode == "copy" else {}))


def _finite(frame: pl.DataFrame) -> pl.DataFrame:
    """What text has no word for is null: NaN and infinity."""
    floats = cs.float()
    return frame.with_columns(pl.when(floats.is_finite()).then(floats))


class _Tabular(ExportFormat):
    """Files of some ten thousand objects each, in the order of URIs; `rows-00000.SUFFIX` is the first."""

    all_columns = True

    def write(self, export: Export) -> None:
        """A file at a time."""
        count = export.selected.objects_count
        for number, start in enumerate(range(0, count, OBJECTS_A_FILE)):
            name = f"rows-{number:05d}.{self.name}"
            if not export.folder.has(name):
                frames = export.selected.frames(start, min(start + OBJECTS_A_FILE, count))
                self.write_rows(export, name, (frame.select(*_columns(export)) for frame in frames))
        if export.media.mode == "copy":
            export.media.place_all(export.selected.objects(), MEDIA)

    def write_rows(self, export: Export, name: str, frames: Iterator[pl.DataFrame]) -> None:
        """Write one file."""
        raise NotImplementedError


class Parquet(_Tabular):
    """The columns and types of the table."""

    name = "parquet"
    description = "rows with every column and type, for anything that reads Parquet"
    loses: ClassVar = ()

    def write_rows(self, export: Export, name: str, frames: Iterator[pl.DataFrame]) -> None:
        import pyarrow.parquet as pq

        schema = plain_schema(pl.DataFrame(schema=_columns(export)).to_arrow().schema)
        with export.folder.file(name, "wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for frame in frames:
                writer.write_table(frame.to_arrow().cast(schema))


class JsonLines(_Tabular):
    """One row a line, nested columns as JSON; times as ISO 8601."""

    name = "jsonl"
    description = "rows with every column, one JSON object a line"
    loses: ClassVar = ("the types of columns: times are text",)

    def write_rows(self, export: Export, name: str, frames: Iterator[pl.DataFrame]) -> None:
        with export.folder.file(name) as file:
            for frame in frames:
                for row in _finite(frame).iter_rows(named=True):
                    file.write(json.dumps(row, ensure_ascii=False, allow_nan=False, default=_time) + "\n")


class Csv(_Tabular):
    """One row a line (RFC 4180) with a head; nested columns as JSON in their cells."""

    name = "csv"
    description = "rows with every column, for spreadsheets and whatever reads nothing else"
    loses: ClassVar = (
        "the types of columns: times are text, nested columns JSON",
        "an empty text and none are the same",
        "text that a spreadsheet would run as a formula, or that begins with an apostrophe, has one more before it",
    )

    def write_rows(self, export: Export, name: str, frames: Iterator[pl.DataFrame]) -> None:
        import csv

        with export.folder.file(name) as file:
            writer = csv.writer(file)
            writer.writerow(_columns(export))
            for frame in frames:
                writer.writerows([_cell(value) for value in row] for row in _finite(frame).iter_rows())


def _cell(value: Any) -> Any:
    match value:
        case list():
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        case datetime():
            return value.isoformat()
        case str():
            return f"'{value}" if value.startswith("'") else no_formula(value)
        case float():
            return repr(value)
    return value


def _time(value: Any) -> str:
    assert isinstance(value, datetime)
    return value.isoformat()
