"""A listing in the place of the store: S3 inventories as AWS lays them out, and files of URIs, from spec to catalog."""

import gzip
import hashlib
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import polars as pl
import pytest
from pyarrow import orc

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.upload_manifests import Manifests
from sightflow.flows.enrich import enrich
from sightflow.infra.cli.doctor import _of_spec
from sightflow.schemas.failure import SpecError, StoreError
from sightflow.schemas.run.selection import Selection
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.discover import discover
from tests.e2e.test_command_line import sightflow
from tests.e2e.test_incremental import flat

FOLDER = "inventories/{bucket}/nightly"
NAMES = {
    "bucket": "Bucket", "key": "Key", "version_id": "VersionId", "is_latest": "IsLatest",
    "is_delete_marker": "IsDeleteMarker", "size": "Size", "last_modified_date": "LastModifiedDate", "e_tag": "ETag",
}  # fmt: skip
TYPES = {"size": pl.Int64(), "e_tag": pl.String()}
KEYS = ("in/a.png", "in/b c+d%20é&=.png", "in/deep/er/c.png")


class Reports:
    """Writes inventories of a bucket into the bucket itself, as AWS lays them out."""

    def __init__(self, bucket: Any) -> None:
        self.bucket, self.folder = bucket, FOLDER.format(bucket=bucket.name)

    @property
    def address(self) -> str:
        return f"s3://{self.bucket.name}/{self.folder}/"

    def row(self, key: str, **fields: Any) -> dict[str, Any]:
        """What an inventory says of an object as it is now."""
        head = self.bucket.client.head_object(Bucket=self.bucket.name, Key=key)
        return {
            "bucket": self.bucket.name, "key": key, "size": head["ContentLength"],
            "last_modified_date": head["LastModified"], "e_tag": head["ETag"].strip('"'),
        } | fields  # fmt: skip

    def write(
        self, rows: list[dict[str, Any]], form: str = "Parquet", date: str = "2026-11-24T01-00Z", **changes: Any
    ) -> str:
        """Write one report, each row in a file of its own; return its folder's key."""
        columns = [name for name in NAMES if rows and name in rows[0]] or ["bucket", "key", "size", "e_tag"]
        files = []
        for k, row in enumerate(rows):
            content = ENCODED[form](pl.DataFrame([{name: row[name] for name in columns}], schema_overrides=TYPES))
            key = f"{self.folder}/data/{date}-{k}.{form.lower()}"
            self.bucket.put(key, content)
            files.append({"key": key, "size": len(content), "MD5checksum": hashlib.md5(content).hexdigest()})
        schema = {
            "Parquet": "message s3.inventory { " + " ".join(f"optional binary {name};" for name in columns) + " }",
            "ORC": f"struct<{','.join(f'{name}:string' for name in columns)}>",
            "CSV": ", ".join(NAMES[name] for name in columns),
        }[form]
        manifest = json.dumps({
            "sourceBucket": self.bucket.name, "destinationBucket": f"arn:aws:s3:::{self.bucket.name}",
            "version": "2016-11-30", "creationTimestamp": "1764000000000", "fileFormat": form, "fileSchema": schema,
            "files": files,
        } | changes).encode()  # fmt: skip
        self.bucket.put(f"{self.folder}/{date}/manifest.json", manifest)
        self.bucket.put(f"{self.folder}/{date}/manifest.checksum", hashlib.md5(manifest).hexdigest().encode())
        self.bucket.put(f"{self.folder}/hive/dt={date[:-1].replace('T', '-')}/symlink.txt", b"s3://somewhere")
        return f"{self.folder}/{date}"


def _as_parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    if "last_modified_date" in frame.columns:
        frame = frame.with_columns(pl.col("last_modified_date").dt.cast_time_unit("ms"))
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _as_orc(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    orc.write_table(frame.to_arrow(compat_level=pl.CompatLevel.oldest()), buffer)
    return buffer.getvalue()


def _as_csv(frame: pl.DataFrame) -> bytes:
    lines = []
    for row in frame.iter_rows(named=True):
        row["key"] = quote_plus(row["key"], safe="/")
        if "last_modified_date" in row:
            row["last_modified_date"] = f"{row['last_modified_date']:%Y-%m-%dT%H:%M:%S}.000Z"
        cells = (str(v).lower() if isinstance(v, bool) else "" if v is None else str(v) for v in row.values())
        lines.append(",".join(f'"{cell}"' for cell in cells))
    return gzip.compress("\n".join(lines).encode())


ENCODED: dict[str, Callable[[pl.DataFrame], bytes]] = {"Parquet": _as_parquet, "ORC": _as_orc, "CSV": _as_csv}


@pytest.fixture
def reports(bucket: Any) -> Reports:
    for k, key in enumerate(KEYS):
        bucket.put(key, flat((k, 2, 3)))
    return Reports(bucket)


@pytest.fixture
def spec_of(reports: Reports, write_spec: Any) -> Callable[..., Path]:
    def write(listing: Any = None, source: str = "in/**", **sections: Any) -> Path:
        store = {"endpoint_url": reports.bucket.endpoint}
        uri = source if "://" in source else f"s3://{reports.bucket.name}/{source}"
        return write_spec(uri, listing=listing or reports.address, store=store, **sections)

    return write


def listed(path: Path) -> pl.DataFrame:
    return discover.fn(read_spec(path)).inventory.sort("uri")


@pytest.mark.parametrize("form", ENCODED)
def test_an_inventory_says_what_the_store_would(reports: Reports, spec_of: Any, write_spec: Any, form: str) -> None:
    """To the last column: a catalog that was made from a listing is not made again for an inventory."""
    reports.write([reports.row(key) for key in KEYS], form)
    told = listed(spec_of())
    spec = write_spec(f"s3://{reports.bucket.name}/in/**", store={"endpoint_url": reports.bucket.endpoint})
    assert told.equals(listed(spec)) and told.height == 3
    assert listed(spec_of(source="in/*.png")).height == 2  # the patterns still choose


@pytest.mark.parametrize("form", ENCODED)
def test_versions_that_are_not_the_latest_and_delete_markers_are_no_objects(
    reports: Reports, spec_of: Any, form: str
) -> None:
    latest = {"version_id": "v2", "is_latest": True, "is_delete_marker": False}
    rows = [
        reports.row(KEYS[0], **latest),
        reports.row(KEYS[0], **latest | {"version_id": "v1", "is_latest": False}, e_tag="older"),
        reports.row(KEYS[2], **latest | {"is_delete_marker": True}, size=None, e_tag=None),
        reports.row(KEYS[2], **latest | {"version_id": "v1", "is_latest": False}),
    ]
    reports.write(rows, form)
    assert listed(spec_of())["uri"].to_list() == [f"s3://{reports.bucket.name}/{KEYS[0]}"]


@pytest.mark.parametrize("form", ENCODED)
def test_a_record_of_an_inventory_that_makes_no_sense_is_told(reports: Reports, spec_of: Any, form: str) -> None:
    odd = [reports.row(KEYS[1], size=None), reports.row(KEYS[2], e_tag=None)]
    reports.write([reports.row(KEYS[0]), *odd], form)
    if form == "CSV":
        ragged = b'"of us"\n"b","in/%22,"5\n"a","in/d","x","e","f"\n"a","in/e.png","5","","e"\n'
        reports.write([reports.row(KEYS[0]), *odd], form, files=[{"key": f"{reports.folder}/ragged.csv"}])
        reports.bucket.put(f"{reports.folder}/ragged.csv", gzip.compress(ragged))
    found = discover.fn(read_spec(spec_of()))
    root = f"s3://{reports.bucket.name}/"
    assert found.inventory["uri"].to_list() == [root + (KEYS[0] if form != "CSV" else "in/e.png")]
    assert sum(each.count for each in found.skips.summary) == (3 if form == "CSV" else 2)
    assert found.skips.complete == (form != "CSV")


def test_the_newest_complete_inventory_of_a_folder_is_read(reports: Reports, spec_of: Any) -> None:
    reports.write([reports.row(KEYS[0])], date="2026-11-22T01-00Z")
    second = reports.write([reports.row(key) for key in KEYS[:2]], date="2026-11-23T01-00Z")
    half = reports.write([reports.row(key) for key in KEYS], date="2026-11-24T01-00Z")
    reports.bucket.delete(f"{half}/manifest.checksum")
    assert listed(spec_of()).height == 2
    root = f"s3://{reports.bucket.name}"
    assert listed(spec_of(f"{root}/{second.replace('23T', '22T')}/manifest.json")).height == 1
    with pytest.raises(StoreError, match=r"no manifest\.checksum"):
        listed(spec_of(f"{root}/{half}/manifest.json"))
    with pytest.raises(StoreError, match="no complete S3 inventory"):
        listed(spec_of(f"{root}/elsewhere"))
    reports.folder = reports.folder.replace("nightly", "weekly")
    reports.write([])
    with pytest.raises(StoreError, match="several S3 inventories"):
        listed(spec_of(f"{root}/inventories/"))


def test_an_inventory_that_is_not_what_it_says_is_refused(reports: Reports, spec_of: Any) -> None:
    row = reports.row(KEYS[0])
    reports.write([{name: value for name, value in row.items() if name != "e_tag"}])
    with pytest.raises(StoreError, match=r"lacks ETag; add it"):
        listed(spec_of())
    reports.write([row | {"version_id": "v1"}])
    with pytest.raises(StoreError, match="lacks IsLatest"):
        listed(spec_of())
    folder = reports.write([row], fileFormat="Avro")
    with pytest.raises(StoreError, match="'Avro'"):
        listed(spec_of())
    reports.write([row], files="none")
    with pytest.raises(StoreError, match="no manifest of an S3 inventory"):
        listed(spec_of())
    reports.write([row])
    data = f"{reports.folder}/data/2026-11-24T01-00Z-0.parquet"
    reports.bucket.put(data, ENCODED["Parquet"](pl.DataFrame([row | {"e_tag": "another"}])))
    with pytest.raises(StoreError, match="its MD5 differs"):
        listed(spec_of())
    reports.bucket.delete(data)
    with pytest.raises(StoreError, match=r"a part of the inventory .* cannot be read"):
        listed(spec_of())
    reports.bucket.put(f"{folder}/manifest.checksum", b"0" * 32)
    with pytest.raises(StoreError, match=r"does not match its manifest\.checksum"):
        listed(spec_of())


def test_an_inventory_of_another_bucket_is_refused(reports: Reports, spec_of: Any) -> None:
    reports.write([reports.row(KEYS[0])], sourceBucket="another-bucket")
    with pytest.raises(SpecError, match="another-bucket"):
        listed(spec_of())


@pytest.mark.usefixtures("prefect_server")
def test_a_run_from_an_inventory_sees_what_has_changed_since_and_what_is_gone(
    reports: Reports, spec_of: Any, stand_in: Any
) -> None:
    reports.write([reports.row(key) for key in KEYS])
    reports.bucket.put(KEYS[0], flat((9, 9, 9)))
    reports.bucket.delete(KEYS[2])
    path = spec_of(policy={"max_quarantine_ratio": 1.0, "prune": True})
    done = sightflow("plan", str(path))
    assert done.returncode == 0 and "3 objects" in done.stdout, done.stderr
    report = enrich(read_spec(path))
    assert (report.published, report.causes) == (1, {"changed": 2})
    reports.write([reports.row(key) for key in KEYS[:2]], date="2026-11-25T01-00Z")
    report = enrich(read_spec(path))
    assert (report.published, report.causes, report.pruned) == (1, {}, 0)
    # An object that came after the report, and was seen to as an upload, is not in it, and its row stays.
    reports.bucket.put("in/later.png", flat((5, 5, 5)))
    reports.bucket.put("in/broken.png", b"no picture")
    uploads = Manifests(Catalog(uri=read_spec(path).catalog))
    late = [f"s3://{reports.bucket.name}/in/{name}.png" for name in ("later", "broken")]
    assert enrich(read_spec(path), Selection(manifest=uploads.write(late))).published == 1
    report = enrich(read_spec(path))
    assert (report.orphaned, report.pruned) == (1, 0)
    kept = Catalog(uri=read_spec(path).catalog)
    assert late[0] in kept.scan("enrichments").collect()["uri"] and late[1] in kept.scan("quarantine").collect()["uri"]
    # The next inventory does not hold what is gone: its rows go, and only those.
    reports.bucket.delete(KEYS[1])
    reports.write([reports.row(KEYS[0])], date="2026-11-26T01-00Z")
    assert enrich(read_spec(path)).pruned == 1
    assert late[0] in kept.scan("enrichments").collect()["uri"]
    # One that holds nothing empties no catalog.
    reports.write([], date="2026-11-27T01-00Z")
    with pytest.raises(StoreError, match="lists no object"):
        enrich(read_spec(path))
    assert kept.scan("enrichments").collect().height == 2


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl", "parquet"])
def test_a_file_of_uris_is_looked_up_and_nothing_else_counts_as_gone(
    reports: Reports, spec_of: Any, stand_in: Any, tmp_path: Path, suffix: str
) -> None:
    root = f"s3://{reports.bucket.name}"
    policy = {"max_quarantine_ratio": 1.0, "prune": True}
    first, second = (f"{root}/{key}" for key in KEYS[:2])
    for uris, planned in (([first], 1), ([second, second, f"{root}/in/gone.png", f"{root}/outside.png"], 1)):
        frame = pl.DataFrame({"of": ["us"] * len(uris), "uri": uris})
        match suffix:
            case "txt":
                (tmp_path / "uris.txt").write_text("\n".join([*uris, ""]))
            case "csv":
                frame.write_csv(tmp_path / "uris.csv")
            case "jsonl":
                frame.write_ndjson(tmp_path / "uris.jsonl")
            case _:
                frame.write_parquet(tmp_path / "uris.parquet")
        report = enrich(read_spec(spec_of(f"uris.{suffix}", policy=policy)))
        assert (report.objects, report.published, report.orphaned, report.pruned) == (1, planned, 0, 0)
    if suffix != "txt":
        (tmp_path / f"uris.{suffix}").write_bytes(b"no such thing")
        with pytest.raises(StoreError, match=r"no column `uri`|cannot be read"):
            listed(spec_of(f"uris.{suffix}"))
    with pytest.raises(StoreError, match="there is no file"):
        listed(spec_of(f"nowhere.{suffix}"))


def test_the_doctor_looks_at_the_listing(reports: Reports, spec_of: Any) -> None:
    reports.write([reports.row(key) for key in KEYS])
    assert ("ok", f"of {reports.bucket.name}, 3 Parquet files") in [finding[1:3] for finding in _of_spec(spec_of())]
    found = _of_spec(spec_of(f"s3://{reports.bucket.name}/elsewhere/"))
    told = next(finding for finding in found if finding[0] == "listing")
    assert told[1] == "missing" and "no complete S3 inventory" in told[2]


def test_a_folder_of_this_machine_is_no_inventory(spec_of: Any) -> None:
    with pytest.raises(SpecError, match="neither an S3 inventory"):
        read_spec(spec_of("somewhere/"))


def test_times_are_those_of_the_inventory(reports: Reports, spec_of: Any) -> None:
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    reports.write([reports.row(KEYS[0], last_modified_date=noon)], "CSV")
    assert listed(spec_of())["modified"].to_list() == [noon]
