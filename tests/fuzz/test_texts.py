"""Texts from outside: notifications, specs, file lists and reports of inventories; and what takes keys out of text."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import strategies as st

from sightflow.blocks.store import s3_inventory
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.blocks.store.uri_lists import read_uri_list
from sightflow.infra.service.notification import MalformedNotification, uploads_in
from sightflow.schemas.failure import SpecError, StoreError
from sightflow.schemas.redaction import redact
from sightflow.schemas.run.discovered import Skips
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.route import check_models
from tests.fuzz.mutation import fuzz, mutated, mutated_text
from tests.infra.service.test_notification import cloud_event, event_grid, pubsub, pubsub_message, storage_object

_S3 = {"bucket": {"name": "photos"}, "object": {"key": "a+b%2Fc.jpg", "eTag": "e", "sequencer": "00", "size": 3}}
_RECORDS = {"Records": [{"eventName": "ObjectCreated:Put", "eventTime": "2026-11-01T00:00:00Z", "s3": _S3}]}
NOTIFICATIONS = [
    json.dumps(_RECORDS),
    json.dumps({"Type": "Notification", "Message": json.dumps(_RECORDS)}),
    json.dumps({"detail-type": "Object Created", "detail": _S3}),
    json.dumps({"Event": "s3:TestEvent"}),
    pubsub("a b.png"),
    pubsub_message(json.dumps(storage_object("a b.png"))),
    json.dumps([event_grid("a b.png"), cloud_event("a b.png")]),
]
SPECS = [
    b"""source: [media/*, s3://photos/**/*.jpg]
catalog: s3://photos-catalog/main
enrichments:
  - &one {capability: vqa, question: Which?, choices: [yes it is, 'no'], language: en}
  - {<<: *one, name: two, sampling: {fps: 2.5}}
models:
  gpt-4o: {id: gpt-4o-2024-11-20, timeout: 30, max_attempts: 3}
policy: {prune: true, limits: {max_bytes: 1000}, upkeep: {compact_files: null}}
runner: {kind: dask, address: "tcp://127.0.0.1:8786"}
""",
    "source: été/*\ncatalog: |\n  out\nenrichments:\n- capability: detection\n  labels: [1, no, 2020-01-01]\n".encode(),
    b"? [a, b]\n: !!set {x}\n---\n%YAML 1.1\n...\n- &a [*a]\n",
    b'"a\\u0041\\x00": >-\n folded\n"b": 0x1F\nc: .inf\nd: 12:30:45\n',
]


def test_a_notification_is_read_or_malformed(seconds: float) -> None:
    def read(body: str) -> None:
        with suppress(MalformedNotification):
            for upload in uploads_in(body):
                assert upload.uri.startswith(("s3://", "gs://", "az://"))

    fuzz(read, mutated_text(NOTIFICATIONS), seconds)


def test_a_spec_is_read_or_refused_in_words(seconds: float, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        with suppress(SpecError):
            spec = check_models(read_spec(path))
            assert type(spec).model_validate_json(spec.model_dump_json()) == spec

    fuzz(read, mutated(SPECS), seconds)


def test_a_list_of_objects_is_read_or_refused_in_words(seconds: float, tmp_path: Path) -> None:
    listed = pl.DataFrame({"uri": ["s3://photos/a.jpg", "s3://photos/b.jpg"], "n": [1, 2]})
    listed.write_parquet(tmp_path / "seed.parquet")
    seeds = {
        "txt": b"s3://photos/a.jpg\ns3://photos/b.jpg\r\n",
        "csv": listed.write_csv().encode(),
        "jsonl": listed.write_ndjson().encode(),
        "parquet": (tmp_path / "seed.parquet").read_bytes(),
    }
    store = ObjectStore()

    def read(given: tuple[str, bytes]) -> None:
        suffix, content = given
        path = tmp_path / f"list.{suffix}"
        path.write_bytes(content)
        with suppress(StoreError):
            assert all(isinstance(uri, str) for uri in read_uri_list(store, f"file://{path}", Skips()))

    forms = [st.tuples(st.just(suffix), mutated([seed])) for suffix, seed in seeds.items()]
    fuzz(read, st.one_of(forms), seconds)


MANIFEST: dict[str, Any] = {
    "sourceBucket": "photos", "destinationBucket": "arn:aws:s3:::reports", "fileFormat": "CSV",
    "fileSchema": "Bucket, Key, Size, LastModifiedDate, ETag", "files": [{"key": "data/a.csv.gz", "MD5checksum": "0"}],
}  # fmt: skip


def test_the_manifest_of_an_inventory_is_read_or_refused_in_words(seconds: float) -> None:
    def read(content: bytes) -> None:
        checksum = hashlib.md5(content).hexdigest().encode()
        with suppress(StoreError):
            s3_inventory._checked("s3://reports/manifest.json", content, checksum)

    fuzz(read, mutated([json.dumps(MANIFEST).encode()]), seconds)


@pytest.mark.parametrize("form", ["CSV", "Parquet", "ORC"])
def test_a_file_of_an_inventory_is_read_or_refused_in_words(form: str, seconds: float, tmp_path: Path) -> None:
    rows = pl.DataFrame(
        {"bucket": ["photos"] * 2, "key": ["a%20b.jpg", "c/"], "size": ["3", "0"], "etag": ["e", "f"],
         "lastmodifieddate": ["2026-11-01T00:00:00.000Z"] * 2}
    )  # fmt: skip
    path = tmp_path / "rows"
    if form == "CSV":
        path.write_bytes(rows.write_csv(include_header=False).encode())
    elif form == "Parquet":
        rows.write_parquet(path)
    else:
        from pyarrow import orc

        orc.write_table(rows.to_arrow().cast(_plain_strings(rows)), str(path))
    seed = path.read_bytes()
    report = s3_inventory.S3Inventory("s3://reports/manifest.json", "photos", form, tuple(rows.columns), ())

    def read(content: bytes) -> None:
        path.write_bytes(content)
        with suppress(StoreError):
            s3_inventory._objects(report, "s3://reports/a", path, lambda uri: True, Skips())

    fuzz(read, mutated([seed]), seconds)


def _plain_strings(rows: pl.DataFrame) -> Any:
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in rows.columns])


def test_taking_keys_out_of_text_is_done_at_once(seconds: float) -> None:
    seeds = ["http://me:p@ss@host/x?X-Amz-Signature=ab", "Authorization: Bearer abc.def", '{"api_key": "sk-abcdef12"}']

    def read(text: str) -> None:
        assert len(redact(text)) < 2 * len(text) + 100

    fuzz(read, mutated_text(seeds), seconds)
