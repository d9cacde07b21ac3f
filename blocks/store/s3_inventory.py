"""S3 Inventory as a listing: the daily or weekly report that AWS writes of a bucket, read in the place of the bucket.

Layout and fields: the S3 user guide, "Cataloging and analyzing your data with S3 Inventory". A report is
`.../CONFIG/2026-11-24T01-00Z/manifest.json`, complete once `manifest.checksum`, its MD5, lies beside it; it names the
files that hold the rows, as Parquet, ORC or gzipped CSV.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote_plus

import polars as pl

from sightflow.blocks.store.backend import UriFilter
from sightflow.blocks.store.csv_records import csv_records, text_lines
from sightflow.blocks.store.inventory import concat, inventory_columns
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import Failure, StoreError
from sightflow.schemas.object_uri import ObjectUri, Scheme
from sightflow.schemas.run.discovered import Skips

_COMPLETE = re.compile(r"^(.*/)(\d{4}-\d\d-\d\dT\d\d-\d\dZ)/manifest\.checksum$")
_NAMES = {"key": "Key", "size": "Size", "etag": "ETag", "islatest": "IsLatest"}
_USED = ("key", "size", "etag", "lastmodifieddate", "islatest", "isdeletemarker")
_FILES_AT_ONCE = 8
_LARGEST_FILE = 2**40
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class S3Inventory:
    """A complete report. `files`: the URI and the MD5 of each; `fields`: names in lower case, without `_`, in order."""

    uri: str
    bucket: str
    form: str
    fields: tuple[str, ...]
    files: tuple[tuple[str, str], ...]


def newest_inventory(store: ObjectStore, address: str) -> S3Inventory:
    """The report whose `manifest.json` this is, or the newest complete one in this folder.

    Raises StoreError if there is none, its checksum does not match, or a field is missing.
    """
    if not address.endswith("/manifest.json"):
        found = [match for uri in store.list_prefix(address.rstrip("/") + "/") if (match := _COMPLETE.match(uri))]
        if not found:
            raise StoreError(
                f"{address} holds no complete S3 inventory: no dated folder with manifest.json and manifest.checksum; "
                "check `listing`, and that the first report has been delivered (up to 48 hours)"
            )
        if len(folders := {match[1] for match in found}) > 1:
            raise StoreError(
                f"{address} holds several S3 inventories; `listing` takes one of {', '.join(sorted(folders))}"
            )
        address = max(f"{match[1]}{match[2]}/manifest.json" for match in found)
    return _checked(address, store.read(address), store.read(address.removesuffix(".json") + ".checksum"))


def read_inventory(store: ObjectStore, report: S3Inventory, include: UriFilter, skips: Skips) -> pl.DataFrame:
    """The objects of a report that `include` takes, in the form of `Inventory`: latest versions, no delete markers.

    A record that tells of no object goes to `skips`. Some files at a time are brought to this machine, checked and
    reduced to the columns that are needed. Raises StoreError if a file is missing or is not what the report says.
    """
    parts: list[pl.DataFrame] = []
    for k in range(0, len(report.files), _FILES_AT_ONCE):
        batch = report.files[k : k + _FILES_AT_ONCE]
        with TemporaryDirectory() as folder:
            got = store.download_many([(uri, "") for uri, _ in batch], Path(folder), _LARGEST_FILE)
            for (uri, checksum), file in zip(batch, got, strict=True):
                if isinstance(file, Failure):
                    raise StoreError(f"{uri}, a part of the inventory {report.uri}, cannot be read: {file.message}")
                with file.path.open("rb") as stream:
                    if checksum and hashlib.file_digest(stream, "md5").hexdigest() != checksum.lower():
                        raise StoreError(
                            f"{uri} is not the file that the inventory {report.uri} names: its MD5 differs"
                        )
                parts.append(_objects(report, uri, file.path, include, skips))
    return concat(parts)


def _checked(uri: str, content: bytes | None, checksum: bytes | None) -> S3Inventory:
    if content is None or checksum is None:
        missing = "manifest.json" if content is None else "manifest.checksum"
        raise StoreError(
            f"the S3 inventory {uri} is not complete: there is no {missing}; check `listing`, or wait for it"
        )
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != checksum.decode("ascii", "replace").strip().lower():
        raise StoreError(
            f"{uri} does not match its manifest.checksum; it is being replaced, or damaged: try again later"
        )
    try:
        manifest = json.loads(content)
        bucket, form, schema = manifest["sourceBucket"], manifest["fileFormat"], manifest["fileSchema"]
        destination = manifest["destinationBucket"].rpartition(":")[2]
        root = ObjectUri(Scheme.S3, destination, "")
        files = tuple((str(root.with_key(each["key"])), each.get("MD5checksum", "")) for each in manifest["files"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{uri} is no manifest of an S3 inventory: {type(error).__name__} {error}") from None
    if form not in ("Parquet", "ORC", "CSV"):
        raise StoreError(f"{uri} is in the format {form!r}; an S3 inventory is Parquet, ORC or CSV")
    if form == "CSV":
        fields = tuple(_plain(name.strip()) for name in schema.split(","))
    else:  # `message s3.inventory { required binary key (UTF8); ... }`, `struct<key:string,...>`
        fields = tuple(_plain(word) for word in re.findall(r"\w+", schema))
    wanted = ["key", "size", "etag", *(["islatest"] if "versionid" in fields else [])]
    if missing := ", ".join(_NAMES[name] for name in wanted if name not in fields):
        raise StoreError(
            f"the S3 inventory {uri} lacks {missing}; add it to the fields of the bucket's inventory configuration "
            "(OptionalFields), and use the next report"
        )
    return S3Inventory(uri, bucket, form, fields, files)


def _plain(name: str) -> str:
    """`ETag` in CSV is `e_tag` in Parquet and ORC."""
    return name.replace("_", "").lower()


def _objects(report: S3Inventory, uri: str, path: Path, include: UriFilter, skips: Skips) -> pl.DataFrame:
    """One file of a report, which was read from `uri`, in the form of `Inventory`.

    Raises StoreError if it cannot be read as such.
    """
    from pyarrow import ArrowException

    try:
        return _inventory_rows(report, uri, _rows(report, path), include, skips)
    except pl.exceptions.NoDataError:
        empty = pl.DataFrame(schema=dict.fromkeys(_USED, pl.String))
        return _inventory_rows(report, uri, empty, include, skips)
    # A broken file can also have Polars panic, which is no Exception, and would end the process.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ArrowException, OSError, ValueError) as error:
        raise StoreError(f"a file of the inventory {report.uri} cannot be read: {str(error)[:200]}") from None


def _inventory_rows(
    report: S3Inventory, uri: str, rows: pl.DataFrame, include: UriFilter, skips: Skips
) -> pl.DataFrame:
    held = set(rows.columns)
    if not {"key", "size", "etag"} <= held:
        raise StoreError(f"a file of the inventory {report.uri} does not have the fields that the manifest says")
    # Booleans in Parquet and ORC, words in CSV; an inventory of current versions alone has neither.
    wanted = {"islatest": "true", "isdeletemarker": "false"}
    keep = [
        pl.col(name).cast(pl.String).str.to_lowercase().eq(value).fill_null(True)
        for name, value in wanted.items()
        if name in held
    ]
    modified = pl.col("lastmodifieddate") if "lastmodifieddate" in held else pl.lit(None, pl.Datetime("us", "UTC"))
    if rows.schema.get("lastmodifieddate") == pl.String:
        modified = modified.str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", time_zone="UTC", strict=False)
    elif isinstance(kind := rows.schema.get("lastmodifieddate"), pl.Datetime) and kind.time_zone is None:
        modified = modified.dt.replace_time_zone("UTC")
    marker = pl.col("key").str.ends_with("/") & (pl.col("bytes") == 0)  # of an empty "folder", as in a listing
    rows = rows.filter(*keep).select(
        "key", pl.col("etag").cast(pl.String), bytes=pl.col("size").cast(pl.Int64, strict=False), modified=modified
    )
    if report.form == "CSV":
        decoded = [None if key is None else unquote_plus(key) for key in rows["key"]]
        rows = rows.with_columns(key=pl.Series(decoded, dtype=pl.String))
    whole = (
        (pl.col("key").str.len_bytes() > 0)
        & (pl.col("etag").str.strip_chars('"').str.len_bytes() > 0)
        & (pl.col("bytes") >= 0)
    ).fill_null(False)
    for key in rows.filter(~whole)["key"]:
        place = str(ObjectUri(Scheme.S3, report.bucket, key)) if key else uri
        skips.add(place, "the inventory's record of it makes no sense", located=bool(key))
    rows = rows.filter(whole, ~marker)
    rows = rows.with_columns(uri=str(ObjectUri(Scheme.S3, report.bucket, "")) + pl.col("key"))
    rows = rows.filter(pl.Series([include(uri) for uri in rows["uri"]], dtype=pl.Boolean))
    version = pl.col("etag").str.strip_chars('"') + "-" + pl.col("bytes").cast(pl.String)
    return rows.select(**inventory_columns(version))


def _rows(report: S3Inventory, path: Path) -> pl.DataFrame:
    """The columns of a file that are of use, under plain names."""
    if report.form == "CSV":
        rows = _csv_rows(path, report.fields)
        return rows.select(name for name in _USED if name in rows.columns)
    if report.form == "ORC":
        from pyarrow import orc

        frame = pl.from_arrow(orc.read_table(path))
        assert isinstance(frame, pl.DataFrame)
        lazy = frame.lazy()
    else:
        lazy = pl.scan_parquet(path)
    names = {_plain(name): name for name in lazy.collect_schema().names()}
    return lazy.select(pl.col(names[name]).alias(name) for name in _USED if name in names).collect()


def _csv_rows(path: Path, fields: tuple[str, ...]) -> pl.DataFrame:
    """The records of a CSV file, compressed or not, as text; what is missing in one is null."""
    schema = dict.fromkeys(fields, pl.String())
    try:
        return pl.read_csv(path, has_header=False, schema=schema, truncate_ragged_lines=True)
    except pl.exceptions.NoDataError:
        raise
    except pl.exceptions.PolarsError:  # a record that is not CSV, or lacks fields: the others are and do not
        content = path.read_bytes()
        lines = text_lines(gzip.decompress(content) if content.startswith(_GZIP) else content)
        padding = [None] * len(fields)
        records = [[*(record or []), *padding][: len(fields)] for record in csv_records(lines)]
        return pl.DataFrame(records, schema=schema, orient="row")
