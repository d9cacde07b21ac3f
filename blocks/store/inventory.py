"""Objects as they are listed, in the form of `Inventory`, some thousands at a time so that a million fit in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice

import polars as pl

from sightflow.schemas.capability import MediaKind
from sightflow.schemas.tables.inventory import INVENTORY_SCHEMA

VIDEO_SUFFIXES = frozenset(
    {"avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "ts", "webm", "wmv"}
)
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
    """The columns of `Inventory`, in their order, from `uri`, `bytes`, `modified` and a version."""
    # What an object probably is, by its name; its bytes decide when they are read.
    suffix = pl.col("uri").str.extract(r"([^./]*)$").str.to_lowercase()
    kind = pl.when(suffix.is_in(list(VIDEO_SUFFIXES))).then(pl.lit(str(MediaKind.VIDEO)))
    columns = {
        "uri": pl.col("uri"),
        "media_kind": kind.otherwise(pl.lit(str(MediaKind.IMAGE))),
        "object_version": version,
        "bytes": pl.col("bytes"),
        "modified": pl.col("modified"),
    }
    return {name: column.cast(INVENTORY_SCHEMA[name]) for name, column in columns.items()}


def kind_by_name(uri: str) -> MediaKind:
    """What an object probably is, by its name."""
    suffix = uri.rpartition("/")[2].rpartition(".")[2].lower()
    return MediaKind.VIDEO if suffix in VIDEO_SUFFIXES else MediaKind.IMAGE


def version_of(etag: str, size: int) -> str:
    """What tells one content of an object of a bucket from another."""
    return f"{etag.strip(chr(34))}-{size}"


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
