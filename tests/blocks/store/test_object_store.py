"""One store in front of every kind of storage: results in order, small files whole, and copies that connect anew."""

import copy
import os
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import polars as pl
import pytest
from pydantic import ValidationError

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import Cause, Failure, StoreError
from sightflow.schemas.media import MediaFile
from sightflow.schemas.object_uri import Scheme

ODD_NAMES = ["plain.json", "a b.json", "ünïcode 図.json", "50%.json", "%41.json", "what?#1.json", "a line\nbreak.json"]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(bucket: Any) -> ObjectStore:
    return ObjectStore(endpoint_url=bucket.endpoint, attempts=2)


@pytest.fixture(params=["bucket", "folder"])
def folder(request: pytest.FixtureRequest, bucket: Any, tmp_path: Path) -> str:
    return f"s3://{bucket.name}/some folder/" if request.param == "bucket" else f"file://{tmp_path}/some folder/"


def test_every_kind_of_storage_has_a_backend() -> None:
    for scheme in Scheme:
        assert callable(ObjectStore(azure_account="a", azure_sas_token="sv=1&sig=1").backend(scheme).read_many)


def test_what_is_asked_of_two_kinds_of_storage_comes_back_in_order(
    store: ObjectStore, bucket: Any, tmp_path: Path
) -> None:
    for k in range(3):
        bucket.put(f"in/{k}.png", b"of the bucket %d" % k)
        (tmp_path / f"{k}.png").write_bytes(b"a file %d" % k)
    in_bucket, in_folder = f"s3://{bucket.name}/in/", f"file://{tmp_path}/"
    uris = [place + f"{k}.png" for k in (2, 0, 1, 3) for place in (in_bucket, in_folder)]  # 3 is not there
    found = store.head_many([*uris, uris[0]])
    assert found["uri"].to_list() == uris[:-2]
    versions = dict(found.select("uri", "object_version").iter_rows())
    wanted = [(uri, versions.get(uri, "none")) for uri in uris]
    expected = [content % k for k in (2, 0, 1) for content in (b"of the bucket %d", b"a file %d")]
    contents = store.read_many(wanted, 100)
    assert contents[:-2] == expected
    assert [failure.cause for failure in contents[-2:] if isinstance(failure, Failure)] == [Cause.CHANGED] * 2
    (tmp_path / "downloads").mkdir()
    files = store.download_many(wanted, tmp_path / "downloads", 100)
    assert [file.path.read_bytes() for file in files if isinstance(file, MediaFile)] == expected
    assert isinstance(files[1], MediaFile) and files[1].path == tmp_path / "2.png"
    listed = store.inventory([in_bucket, in_folder + "*"])
    assert listed.sort("uri").select("uri", "object_version").equals(found.sort("uri").select("uri", "object_version"))


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_small_file_is_read_as_it_was_written_whatever_its_name(folder: str, name: str, store: ObjectStore) -> None:
    if folder.startswith("s3://") and "\n" in name:
        pytest.skip("the endpoint here takes no such key")
    uri = folder + name
    assert store.read(uri) is None and store.list_prefix(folder) == []
    store.write(uri, b"first")
    store.write(uri, b"second")
    assert store.read(uri) == b"second"
    assert store.list_prefix(folder) == store.list_prefix(uri[:-5]) == [uri]
    assert store.list_prefix(folder + "x") == store.list_prefix(folder.rstrip("/") + "s/") == []
    store.remove(uri)
    store.remove(uri)
    assert store.read(uri) is None and store.list_prefix(folder) == []


def test_a_prefix_is_literal_and_no_pattern(folder: str, store: ObjectStore) -> None:
    store.write(f"{folder}[1]/a", b"x")
    store.write(f"{folder}1/a", b"x")
    assert store.list_prefix(f"{folder}[1]/") == [f"{folder}[1]/a"]


def test_what_the_operating_system_refuses_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    uri = f"file://{tmp_path}/file/below"
    with pytest.raises(StoreError, match=re.escape(f"{uri} cannot be written: ")):
        ObjectStore().write(uri, b"x")
    with pytest.raises(StoreError, match=re.escape(f"{uri} cannot be made: ")):
        ObjectStore().makedirs(uri)


@pytest.mark.parametrize("ask", [
    lambda store, uri: store.inventory([uri]),
    lambda store, uri: store.check(uri),
    lambda store, uri: store.connect([uri]),
    lambda store, uri: store.head_many(["file:///a", uri]),
    lambda store, uri: store.read_many([(uri, "1")], 10),
    lambda store, uri: store.read(uri),
    lambda store, uri: store.write(uri, b""),
    lambda store, uri: store.delta_table_uri(uri),
])  # fmt: skip
def test_a_uri_of_no_known_storage_is_refused(ask: Callable[[ObjectStore, str], Any]) -> None:
    with pytest.raises(StoreError, match="'ftp://bucket/key' has the scheme 'ftp'; allowed: "):
        ask(ObjectStore(), "ftp://bucket/key")


@pytest.mark.parametrize("copied", [
    lambda block: pickle.loads(pickle.dumps(block)),
    lambda block: cloudpickle.loads(cloudpickle.dumps(block)),
    copy.copy,
    copy.deepcopy,
    lambda block: block.model_copy(deep=True),
])  # fmt: skip
def test_a_copy_of_a_store_in_use_opens_its_own_connection(copied: Any, store: ObjectStore, bucket: Any) -> None:
    uri = bucket.put("a.json", b"{}")
    assert store.read(uri) == b"{}"
    other = copied(store)
    assert other == store.model_copy() and other.read(uri) == b"{}"
    assert other.backend(Scheme.S3) is not store.backend(Scheme.S3)
    catalog = copied(Catalog(uri=f"s3://{bucket.name}/catalog", store=store))
    assert catalog.version() is None and catalog.store.read(uri) == b"{}"


def test_a_copy_with_other_settings_uses_them(store: ObjectStore, bucket: Any) -> None:
    uri = bucket.put("a.json", b"{}")
    assert store.read(uri) == b"{}"
    elsewhere = store.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "attempts": 1})
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9 does not answer"):
        elsewhere.read(uri)


def test_a_store_whose_client_cannot_be_opened_says_so_without_its_keys() -> None:
    keys = {"access_key_id": "AKIA-canary-key", "secret_access_key": "canary-secret-key"}
    store = ObjectStore(endpoint_url="http://AKIA-canary-key no address", **keys)
    with pytest.raises(StoreError, match="the client of S3 cannot be opened") as raised:
        store.connect(["s3://bucket/"])
    assert "canary" not in str(raised.value)
    ObjectStore().connect(["file:///"])


def test_nothing_else_takes_a_uri_apart() -> None:
    """What depends on the kind of storage is in its backend: another kind is one more file."""
    apart = re.compile(r"""(startswith|removeprefix|partition|split)\([(]?r?f?["'](file|s3|gs|az|abfss?)?://""")
    allowed = {"schemas/object_uri.py", "blocks/store/s3/backend.py", "blocks/store/local.py"}
    sources = [p for room in ("blocks", "flows", "infra", "schemas", "tasks") for p in (ROOT / room).rglob("*.py")]
    assert len(sources) > 50
    guilty = [
        name for p in sources if apart.search(p.read_text()) and (name := str(p.relative_to(ROOT))) not in allowed
    ]
    assert guilty == []


def test_an_inventory_of_nothing_has_its_columns() -> None:
    assert ObjectStore().inventory([]).is_empty()
    assert isinstance(ObjectStore().head_many([]), pl.DataFrame)


def test_what_vanishes_while_a_folder_is_listed_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone, folder, itself = (tmp_path / name for name in ("kept.jpg", "gone.jpg", "folder", "itself.jpg"))
    kept.write_bytes(b"x")
    gone.write_bytes(b"x")
    folder.mkdir()
    itself.symlink_to(itself)
    scandir = os.scandir

    @contextmanager
    def removing(path: str) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(path) as entries:
            found = list(entries)
        gone.unlink()
        folder.rmdir()
        yield found

    monkeypatch.setattr(os, "scandir", removing)
    found = ObjectStore().inventory([f"file://{tmp_path}/**"])
    assert found["uri"].to_list() == [f"file://{kept}"]


def test_a_local_catalog_asks_nobody_for_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore()
    store.write(f"file://{tmp_path}/a", b"x")
    monkeypatch.setattr("botocore.session.Session.get_credentials", lambda _: pytest.fail("keys were looked for"))
    assert store.redact("a message") == "a message"


def test_a_saved_store_takes_no_password_in_its_address() -> None:
    with pytest.raises(ValidationError, match="holds a user name or a password"):
        ObjectStore(endpoint_url="http://me:pass-word@minio:9000")
