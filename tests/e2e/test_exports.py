"""`sightflow export` and `sightflow label` as a person types them, on S3, killed in the middle."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from tests.command_line import app
from tests.conftest import Bucket
from tests.e2e.test_command_line import sightflow
from tests.e2e.test_incremental import flat
from tests.schemas.tables.test_catalog import caption, row

KEYS = [
    "a b+c%20ü.png",
    "A B+C%20Ü.png",
    "../up.png",
    "deep/er/x.png",
    "deep",
    "x:y?.png",
    *(f"n/{k}.png" for k in range(60)),
]


@pytest.fixture
def catalog(bucket: Bucket) -> str:
    for number, key in enumerate(KEYS):
        bucket.put(f"photos/{key}", flat((number, 20, 30)))
    catalog = Catalog.at(f"s3://{bucket.name}/catalog", bucket.endpoint)
    listed = catalog.store.inventory([f"s3://{bucket.name}/photos/**"])
    rows = []
    for uri, version in listed.select("uri", "object_version").iter_rows():
        rows.append(row(uri=uri, object_version=version, width=64, height=48))
        rows.append(caption(uri=uri, object_version=version, width=64, height=48))
    assert len(rows) == 2 * len(KEYS)
    catalog.publish(pl.DataFrame(rows, schema=CATALOG_SCHEMA))
    return catalog.uri


def test_an_export_that_is_killed_holds_whole_files_and_goes_on(catalog: str, bucket: Bucket, tmp_path: Path) -> None:
    words = [
        "export",
        catalog,
        "--format",
        "coco",
        "--media",
        "copy",
        "--out",
        "out",
        "--endpoint-url",
        bucket.endpoint,
    ]
    start = "from sightflow.infra.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    images = tmp_path / "out" / "images"
    process = subprocess.Popen(
        [sys.executable, "-c", start, *words], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
    )
    while process.poll() is None and len(list(images.rglob("*.png"))) < 5:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    sizes = {len(flat((number, 20, 30))) for number in range(len(KEYS))}
    assert {path.stat().st_size for path in images.rglob("*") if path.is_file()} <= sizes
    assert not (tmp_path / "out" / "annotations").exists()
    done = sightflow(*words, folder=tmp_path, real=True)
    assert done.returncode == 0, done.stderr
    assert f"{2 * len(KEYS)} rows of {len(KEYS)} objects as coco in out" in done.stdout
    assert "coco does not hold: " in done.stdout
    content = json.loads((tmp_path / "out" / "annotations" / "objects.json").read_text())
    copied = {image["uri"]: (images / image["file_name"]).read_bytes() for image in content["images"]}
    assert copied == {f"s3://{bucket.name}/photos/{key}": flat((k, 20, 30)) for k, key in enumerate(KEYS)}
    assert all(path.resolve().is_relative_to(tmp_path / "out") for path in tmp_path.rglob("*"))
    with contextlib.chdir(tmp_path):
        again = CliRunner().invoke(app, words)
    assert again.exit_code == 2 and "holds an export that is done" in again.output


def test_labels_go_out_are_corrected_and_come_back(catalog: str, bucket: Bucket, tmp_path: Path) -> None:
    def run(*words: str, code: int = 0) -> str:
        with contextlib.chdir(tmp_path):
            done = CliRunner().invoke(app, [*words, "--endpoint-url", bucket.endpoint])
        assert done.exit_code == code, done.output
        return done.output

    assert "has no labels" in run("label", "export", catalog, "--format", "coco", code=2)
    run("export", catalog, "--format", "yolo", "--enrichment", "objects", "--out", "boxes")
    data = yaml.safe_load((tmp_path / "boxes" / "data.yaml").read_text())
    (tmp_path / "boxes" / "data.yaml").write_text(yaml.safe_dump(data | {"names": {0: "wolf"}}))
    took = ("label", "import", catalog, "boxes", "--format", "yolo", "--by", "ann")
    assert "say which with --enrichment: caption, objects" in run(*took, code=2)
    assert f"{len(KEYS)} labels saved" in run(*took, "--enrichment", "objects")
    assert f"{len(KEYS)} labels have a label already" in run(*took, "--enrichment", "objects")
    run("label", "export", catalog, "--format", "jsonl")
    lines = (tmp_path / "sightflow-jsonl" / "rows-00000.jsonl").read_text().splitlines()
    found: list[dict[str, Any]] = list(map(json.loads, lines))
    assert {each["uri"] for each in found} == {f"s3://{bucket.name}/photos/{key}" for key in KEYS}
    assert {(each["regions"][0]["label"], each["labelled_by"], each["origin"]) for each in found} == {
        ("wolf", "ann", "import yolo")
    }
    bucket.put("photos/deep", flat((1, 1, 1)))
    fresh = ObjectStore(endpoint_url=bucket.endpoint).head_many([f"s3://{bucket.name}/photos/deep"])
    changed = row(uri=fresh["uri"][0], object_version=fresh["object_version"][0], sha256="b" * 64, fingerprint="f" * 9)
    changed["inferred_at"] += timedelta(days=1)
    Catalog.at(catalog, bucket.endpoint).publish(pl.DataFrame([changed], schema=CATALOG_SCHEMA))
    told = run("label", "export", catalog, "--format", "jsonl", "--out", "later")
    assert "left out: 1 labels of objects that have changed" in told
    assert "are of an object that has changed" in run(*took, "--enrichment", "objects", "--replace")
