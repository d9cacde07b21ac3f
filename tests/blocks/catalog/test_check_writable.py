"""Whether a catalog can be committed to is seen before anything is spent, by a write of the same kind."""

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreRefusal
from tests.loopback.stores.s3_proxy import Refuse, S3Proxy
from tests.tasks.runtime.hand_made import row

ROOT = os.geteuid() == 0


def in_bucket(bucket: Any, endpoint: str | None = None) -> Catalog:
    store = ObjectStore(endpoint_url=endpoint or bucket.endpoint, attempts=1)
    return Catalog(uri=f"s3://{bucket.name}/to/catalog", store=store)


def keys(bucket: Any) -> list[str]:
    versions = bucket.client.list_object_versions(Bucket=bucket.name)
    return [each["Key"] for kind in ("Versions", "DeleteMarkers") for each in versions.get(kind, [])]


@pytest.mark.parametrize("versioned", [False, True])
def test_nothing_is_left_of_the_probe_in_a_bucket_also_of_many_at_once(bucket: Any, versioned: bool) -> None:
    if versioned:
        bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    catalog = in_bucket(bucket)
    errors: list[BaseException] = []

    def check() -> None:
        try:
            catalog.check_writable()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=check) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and keys(bucket) == []
    catalog.publish(row(0).rows)
    before = sorted(keys(bucket))
    catalog.check_writable()
    assert sorted(keys(bucket)) == before


def test_a_probe_in_the_log_disturbs_no_reader(bucket: Any) -> None:
    catalog = in_bucket(bucket)
    catalog.publish(row(0).rows)
    bucket.put("to/catalog/enrichments/_delta_log/.sightflow-probe-00", b"")
    catalog.publish(row(1).rows)
    assert catalog.scan("enrichments").collect().height == 2


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (403, "AccessDenied", "refuses to let us write .*AccessDenied"),
        (403, "RequestTimeTooSkewed", "set this machine's clock"),
        (501, "NotImplemented", "no conditional writes"),
        (507, "XMinioStorageFull", "the store is full"),
        (404, "NoSuchBucket", "no bucket .* in `catalog`"),
    ],
)
def test_a_bucket_that_takes_no_commit_is_refused(bucket: Any, status: int, code: str, says: str) -> None:
    def refuse(http: Any, times: int) -> Refuse | None:
        return Refuse(status, f"<Error><Code>{code}</Code></Error>") if http.command == "PUT" else None

    with S3Proxy(bucket.endpoint, refuse) as proxy, pytest.raises(StoreRefusal, match=says):
        in_bucket(bucket, proxy.url).check_writable()


def test_a_store_that_ignores_the_condition_is_refused_and_nothing_left(bucket: Any) -> None:
    def ignore(http: Any, times: int) -> None:
        del http.headers["If-None-Match"]

    with S3Proxy(bucket.endpoint, ignore) as proxy, pytest.raises(StoreRefusal, match="ignores If-None-Match"):
        in_bucket(bucket, proxy.url).check_writable()
    assert keys(bucket) == []


def test_an_answer_that_was_lost_is_no_refusal(bucket: Any) -> None:
    """The object is there when the request is sent again."""

    def lose(http: Any, times: int) -> Refuse | None:
        if http.command == "PUT" and times == 1:
            bucket.put(http.path.partition("?")[0].removeprefix(f"/{bucket.name}/"), b"")
            return Refuse(503, "<Error><Code>SlowDown</Code></Error>")
        return None

    with S3Proxy(bucket.endpoint, lose) as proxy:
        store = ObjectStore(endpoint_url=proxy.url, attempts=3)
        Catalog(uri=f"s3://{bucket.name}/catalog", store=store).check_writable()


def test_a_bucket_that_is_not_there(bucket: Any) -> None:
    with pytest.raises(StoreRefusal, match="NoSuchBucket"):
        Catalog(uri="s3://nowhere/catalog", store=ObjectStore(endpoint_url=bucket.endpoint)).check_writable()


def test_nothing_is_left_of_the_probe_in_a_folder(tmp_path: Path) -> None:
    catalog = Catalog(uri=f"file://{tmp_path}/new/catalog")
    catalog.check_writable()
    assert list(tmp_path.iterdir()) == []
    catalog.publish(row(0).rows)
    before = sorted(tmp_path.rglob("*"))
    catalog.check_writable()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(ROOT, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    catalog = Catalog(uri=f"file://{tmp_path}/catalog")
    catalog.publish(row(0).rows)
    (tmp_path / "catalog/enrichments/_delta_log").chmod(0o555)
    with pytest.raises(StoreRefusal, match="Permission denied"):
        catalog.check_writable()


def test_a_file_in_the_place_of_the_catalog(tmp_path: Path) -> None:
    (tmp_path / "catalog").write_bytes(b"")
    with pytest.raises(StoreRefusal, match="Not a directory"):
        Catalog(uri=f"file://{tmp_path}/catalog").check_writable()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_a_file_system_that_cannot_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def link(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreRefusal, match=os.strerror(number)):
        Catalog(uri=f"file://{tmp_path}/catalog").check_writable()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    if not ROOT:
        pytest.skip("only root can mount one")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_disk_that_fills_up_is_refused_in_words_and_without_a_panic_on_the_screen(
    small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    catalog = Catalog(uri=f"file://{small_disk}/catalog")
    catalog.check_writable()
    published: list[int] = []

    def fill() -> None:
        for k in range(100):
            catalog.publish(row(k).rows)
            published.append(k)

    with pytest.raises(StoreRefusal, match="No space left on device"):
        fill()
    assert catalog.scan("enrichments").collect().height == len(published) > 0
    (small_disk / "filler").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096))
    with pytest.raises(StoreRefusal, match="No space left on device"):
        catalog.check_writable()
    assert "panicked" not in capfd.readouterr().err


def test_a_commit_into_a_full_disk_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    catalog = Catalog(uri=f"file://{tmp_path}/catalog")
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreRefusal, match="No space left"):
        catalog.publish(row(0).rows)
    assert list(tmp_path.iterdir()) == []


def test_what_delta_rs_says_of_a_full_disk_is_tried_once(tmp_path: Path) -> None:
    from deltalake.exceptions import CommitFailedError

    tries = []

    def commit() -> None:
        tries.append(1)
        raise CommitFailedError("Generic LocalFileSystem error: No space left on device (os error 28)")

    with pytest.raises(StoreRefusal):
        Catalog(uri=f"file://{tmp_path}/catalog").commit(commit)
    assert len(tries) == 1


def test_a_panic_of_rust_is_an_error_of_the_store(tmp_path: Path) -> None:
    panic = type("PanicException", (BaseException,), {})

    def commit() -> None:
        raise panic("called `Result::unwrap()` on an `Err` value: StorageFull")

    with pytest.raises(StoreRefusal, match="StorageFull"):
        Catalog(uri=f"file://{tmp_path}/catalog").commit(commit)
