"""Files that name objects: one URI a line, or a column `uri` of CSV, JSON lines or Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import polars as pl

from sightflow.blocks.store.csv_records import csv_records, text_lines
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreError
from sightflow.schemas.run.discovered import Skips
from sightflow.schemas.spec import uri_list_form

_ODD = "it is no record with a URI"


def read_uri_list(store: ObjectStore, address: str, skips: Skips) -> list[str]:
    """The URIs that a file names, in order; a record that has none goes to `skips`.

    Raises StoreError if the file is not there, cannot be read, or no record has a URI.
    """
    content = store.read(address)
    if content is None:
        raise StoreError(f"there is no file {address}; check `listing`")
    uris: list[str] = []
    odd: list[int] = []
    for number, given in enumerate(_records(address, content), 1):
        try:
            uris.append(store.canonical_object(given or ""))
        except ValueError:
            odd.append(number)
    if odd and not uris:
        raise StoreError(
            f"{address} cannot be read: it names no URI, as s3://bucket/key, in any of {len(odd):,} records"
        )
    for number in odd:
        skips.add(f"{address}, record {number:,}", _ODD)
    return uris


def _records(address: str, content: bytes) -> Iterator[str | None]:
    """The URI of each record that is not blank, or None for one that has none."""
    form = uri_list_form(address)
    if form == ".parquet":
        yield from _of_parquet(address, content)
        return
    texts = text_lines(content)
    if form == ".csv":
        yield from _of_csv(address, texts)
    elif form == ".jsonl":
        yield from map(_of_json, texts)
    else:
        yield from texts


def _of_json(line: str | None) -> str | None:
    try:
        record = json.loads(line or "")
    except (ValueError, RecursionError):
        return None
    uri = record.get("uri") if isinstance(record, dict) else None
    return uri if isinstance(uri, str) else None


def _of_csv(address: str, lines: list[str | None]) -> Iterator[str | None]:
    records = csv_records(lines)
    header = next(records, [])
    if lines and "uri" not in (header or []):
        raise StoreError(f"{address} has no column `uri`")
    place = (header or []).index("uri") if lines else 0
    for record in records:
        yield record[place] if record and len(record) > place else None


def _of_parquet(address: str, content: bytes) -> Iterator[str | None]:
    try:
        yield from pl.read_parquet(io.BytesIO(content), columns=["uri"])["uri"].cast(pl.String)
    except pl.exceptions.ColumnNotFoundError:
        raise StoreError(f"{address} has no column `uri`") from None
    # A broken file can also have Polars panic, which is no Exception, and would end the process.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise StoreError(f"{address} cannot be read: {str(error)[:200]}") from None
