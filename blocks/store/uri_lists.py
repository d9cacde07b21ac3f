"""Files that name objects: one URI a line, or a column `uri` of CSV, JSON lines or Parquet."""

from __future__ import annotations

import io

import polars as pl

from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreError


def read_uri_list(store: ObjectStore, address: str) -> list[str]:
    """The URIs that a file names, in order. Raises StoreError if it is not there or has no column `uri`."""
    content = store.read(address)
    if content is None:
        raise StoreError(f"there is no file {address}; check `listing`")
    try:
        uris = _column(address.rpartition(".")[2].lower(), content)
    except pl.exceptions.ColumnNotFoundError:
        raise StoreError(f"{address} has no column `uri`") from None
    # A broken file can also have Polars panic, which is no Exception, and would end the process.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError) as error:
        raise StoreError(f"{address} cannot be read: {str(error)[:200]}") from None
    return [uri for uri in uris if uri]


def _column(suffix: str, content: bytes) -> list[str | None]:
    if suffix == "txt":
        return [line.rstrip("\r") for line in content.decode("utf-8-sig").split("\n")]
    if not content.strip():
        return []
    match suffix:
        case "csv":
            frame = pl.read_csv(io.BytesIO(content), infer_schema=False)
        case "jsonl":
            frame = pl.read_ndjson(io.BytesIO(content))
        case _:
            frame = pl.read_parquet(io.BytesIO(content), columns=["uri"])
    return frame["uri"].cast(pl.String).to_list()
