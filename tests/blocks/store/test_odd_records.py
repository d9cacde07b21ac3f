"""One record or place that makes no sense is told, and costs its neighbours nothing."""

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.upload_manifests import Manifests
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.blocks.store.uri_lists import read_uri_list
from sightflow.schemas.failure import StoreError
from sightflow.schemas.run.discovered import Skips

GOOD = ["s3://bucket/a,b.png", 's3://bucket/"q".png', "s3://bucket/ü.png", "file:///tmp/x.png"]
LISTS: dict[str, bytes] = {
    "txt": b"\xef\xbb\xbf"
    + "\n".join([*GOOD[:2], "no uri", "", "ftp://bucket/x", *GOOD[2:]]).encode()
    + b"\ns3://b/\xff\n",
    "csv": (
        'of,uri,more\r\nus,"s3://bucket/a,b.png",1,too,many\r\nus\r\nus,"s3://bucket/""q"".png",1\r\n'
        'us,"s3://bucket/never closed.png,1\r\nus,s3://bucket/ü.png,1\r\nus,,1\r\nus,file:///tmp/x.png,1\r\n'
    ).encode(),
    "jsonl": "\n".join(
        [*(json.dumps({"uri": uri}) for uri in GOOD), '{"uri": 5}', "{", "[]", '{"of": "us"}', "[" * 100_000]
    ).encode(),
}


@pytest.mark.parametrize("suffix", LISTS)
def test_a_record_that_names_nothing_costs_no_other(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"uris.{suffix}"
    file.write_bytes(LISTS[suffix])
    skips = Skips()
    assert read_uri_list(ObjectStore(), f"file://{file}", skips) == GOOD
    (told,) = skips.summary
    assert told.count == {"txt": 3, "csv": 3, "jsonl": 5}[suffix] and f"uris.{suffix}, record" in told.summary


def test_a_table_with_nulls_and_numbers_names_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "uris.parquet"
    pl.DataFrame({"uri": [GOOD[0], None, "5", GOOD[3]]}).write_parquet(file)
    skips = Skips()
    assert read_uri_list(ObjectStore(), f"file://{file}", skips) == [GOOD[0], GOOD[3]]
    assert skips.summary[0].count == 2


def test_a_list_of_nothing_but_nonsense_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "uris.txt"
    file.write_text("one\ntwo\n")
    with pytest.raises(StoreError, match="names no URI"):
        read_uri_list(ObjectStore(), f"file://{file}", Skips())
    file.write_text("")
    assert read_uri_list(ObjectStore(), f"file://{file}", Skips()) == []


def test_an_object_of_a_list_is_named_as_a_listing_would(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "link").symlink_to("media")
    file = tmp_path / "uris.txt"
    file.write_text(f"file://{tmp_path}/link/../link/x.png\n{tmp_path}/media/x.png\n")
    assert read_uri_list(ObjectStore(), f"file://{file}", Skips()) == [f"file://{tmp_path}/media/x.png"] * 2


def test_an_entry_of_a_manifest_that_is_no_uri_costs_no_other(tmp_path: Path) -> None:
    manifests = Manifests(Catalog(uri=f"file://{tmp_path}/catalog"))
    uri = manifests.write(["s3://bucket/a", 5, None, "words", {"uri": "s3://b/c"}, "s3://bucket/b"])  # type: ignore[list-item]
    skips = Skips()
    assert manifests.read(uri, skips) == ["s3://bucket/a", "s3://bucket/b"]
    assert skips.summary[0].count == 4
    ObjectStore().write(uri, b'{"uris": "s3://bucket/a"}')
    with pytest.raises(StoreError, match="is no manifest"):
        manifests.read(uri)


def test_a_folder_that_nobody_may_list_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.png", "secret/2.png", "z/3.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "z/away.png").symlink_to("nowhere")
    (tmp_path / "z/itself.png").symlink_to("itself.png")
    (tmp_path / "z/folder").symlink_to("../a")
    scandir = os.scandir

    def refused(path: str) -> Any:
        if path.endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    skips, root = Skips(), f"file://{tmp_path}"
    found = ObjectStore().inventory([f"{root}/"], skips=skips)
    assert sorted(found["uri"]) == [f"{root}/a/1.png", f"{root}/z/3.png"]
    assert skips.unlisted == {f"{root}/secret", *(f"{root}/z/{name}" for name in ("away.png", "itself.png", "folder"))}
    assert any("permission denied" in each.summary for each in skips.summary)


@pytest.mark.parametrize("seconds", [-1e14, -1e10, -0.5, 1e11, 1e14, 1e30])
def test_a_file_of_any_time_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(b"x")
    stat = os.stat

    def of_that_time(path: Any, **more: Any) -> os.stat_result:
        found = stat(path, **more)
        return os.stat_result((*found[:8], seconds, *found[9:])) if str(path) == str(file) else found

    monkeypatch.setattr(os, "stat", of_that_time)
    found = ObjectStore().inventory([f"file://{file}"])
    assert found["uri"].to_list() == [f"file://{file}"]
    assert ObjectStore().head_many([f"file://{file}"]).equals(found)
