"""Objects as they are listed, in the form of `Inventory`, some thousands at a time so that a million fit in memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice

import polars as pl

from sightflow.schemas.capability import MediaKind
from sightflow.schemas.tables.inventory import INVENTORY_SCHEMA

_SUFFIXES = {
    MediaKind.VIDEO: "3g2 3gp asf avi divx f4v flv m2ts m2v m4v mkv mov mp4 mpeg mpg mxf ogv qt vob webm wmv",
    MediaKind.IMAGE: "avif bmp gif heic heif jfif jpe jpeg jpg jp2 pgm png ppm svg tif tiff webp",
}
"""Names that tell what an object probably is. `ts` is TypeScript too, and is none of them."""
ListedObject = tuple[str, str, int, datetime | None]
"""URI, version, bytes, and when it was changed, if that is a time."""

_BATCH = 10_000


def columns_to_inventory(
    uris: Sequence[str], versions: Sequence[str], sizes: Sequence[int], modified: Sequence[datetime | None]
) -> pl.DataFrame:
    """Columns of equal length in the form of `Inventory`."""
    columns = {"uri": uris, "object_version": versions, "bytes": sizes, "modified": modified}
    frame = pl.DataFrame(columns, schema={name: INVENTORY_SCHEMA[name] for name in columns})
    return frame.select(**inventory_columns(pl.col("object_version")))


def inventory_columns(version: pl.Expr) -> dict[str, pl.Expr]:
    """The columns of `Inventory`, in their order, from `uri`, `bytes`, `modified` and a version.

    `media_kind` is null where the name does not tell it.
    """
    kinds = {suffix: str(kind) for kind, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
    suffix = pl.col("uri").str.extract(r"\.([^./]+)$").str.to_lowercase()
    columns = {
        "uri": pl.col("uri"),
        "media_kind": suffix.replace_strict(kinds, default=None, return_dtype=pl.String()),
        "object_version": version,
        "bytes": pl.col("bytes"),
        "modified": pl.col("modified"),
    }
    return {name: column.cast(INVENTORY_SCHEMA[name]) for name, column in columns.items()}


def kind_by_name(uri: str) -> MediaKind | None:
    """What an object probably is, by its name; None where that does not tell it."""
    _, dot, suffix = uri.rpartition("/")[2].rpartition(".")
    return next((kind for kind, suffixes in _SUFFIXES.items() if dot and suffix.lower() in suffixes.split()), None)


def version_of(etag: str, size: int) -> str:
    """What tells one content of an object of a bucket from another."""
    return f"{etag.strip(chr(34))}-{size}"


def size_of(version: str) -> int:
    """The bytes of an object, which its version ends with; 0 if it does not."""
    size = version.rpartition("-")[2]
    return int(size) if re.fullmatch("[0-9]{1,18}", size) else 0


def to_inventory(found: Iterable[ListedObject]) -> pl.DataFrame:
    """Listed objects in the form of `Inventory`; one that was listed twice counts once."""
    listed = iter(found)
    parts: list[pl.DataFrame] = []
    while batch := list(islice(listed, _BATCH)):
        parts.append(columns_to_inventory(*map(list, zip(*batch, strict=True))))
    return concat(parts).unique("uri", keep="first", maintain_order=True)


def concat(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Parts of an inventory as one."""
    return pl.concat([pl.DataFrame(schema=INVENTORY_SCHEMA), *parts], rechunk=True)
