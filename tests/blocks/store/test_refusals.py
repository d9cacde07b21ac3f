"""What a store refuses: one object of many is that object's failure; everything, the keys or the clock end the run."""

import errno
import io
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.store.backend import Refused
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Cause, Failure, StoreRefusal
from sightflow.schemas.run.plan import Shard, ShardItem
from sightflow.schemas.spec import EnrichmentSpec, StoreSettings
from sightflow.tasks.fetch import fetch
from tests.loopback.stores.s3_proxy import Refuse, S3Proxy

LIMIT = 1 << 20
Wanted = list[tuple[str, str]]


def denied(http: BaseHTTPRequestHandler, code: str = "AccessDenied") -> Refuse:
    return Refuse(403, f"<Error><Code>{code}</Code><Message>no</Message></Error>")


def planned(bucket: Any, *names: str) -> Wanted:
    """Objects of the bucket, at the version that is there."""
    for name in names:
        bucket.put(name, name.encode())
    listed = ObjectStore(endpoint_url=bucket.endpoint).head_many([f"s3://{bucket.name}/{name}" for name in names])
    return list(listed.select("uri", "object_version").rows())


@pytest.fixture
def store(bucket: Any) -> Any:
    """A store in front of which stands what `.spoil` says."""

    class Spoilt:
        spoil: Callable[[BaseHTTPRequestHandler], Refuse | None] = staticmethod(lambda http: None)

    with S3Proxy(bucket.endpoint, lambda http, times: Spoilt.spoil(http)) as proxy:
        Spoilt.store = ObjectStore(endpoint_url=proxy.url, attempts=2)
        Spoilt.proxy = proxy
        yield Spoilt


def test_some_denied_objects_are_failures_of_their_own_however_many(bucket: Any, store: Any) -> None:
    wanted = planned(bucket, "open-0", *(f"secret-{k:02d}" for k in range(20)), "open-1")
    store.spoil = lambda http: denied(http) if "secret" in http.path else None
    for group in (wanted[:1], wanted[1:11], wanted[11:21], wanted[21:]):
        for (uri, _), result in zip(group, store.store.read_many(group, LIMIT), strict=True):
            if "secret" in uri:
                assert isinstance(result, Refused) and result.cause is Cause.FETCH
            else:
                assert isinstance(result, bytes)


@pytest.mark.parametrize("read_before", [0, 4])
def test_a_store_that_gives_nothing_any_more_refuses_us(bucket: Any, store: Any, read_before: int) -> None:
    wanted = planned(bucket, *(f"{k}" for k in range(8)))
    assert all(isinstance(result, bytes) for result in store.store.read_many(wanted[:read_before], LIMIT))
    store.spoil = denied
    with pytest.raises(StoreRefusal, match=r"refuses all of the last 4 objects.*AccessDenied"):
        store.store.read_many(wanted[4:], LIMIT)


def test_objects_that_come_one_by_one_are_counted_together(bucket: Any, store: Any, tmp_path: Path) -> None:
    wanted = planned(bucket, "a", "b", "c")
    store.spoil = denied
    for one in wanted[:2]:
        (failure,) = store.store.download_many([one], tmp_path, LIMIT)
        assert isinstance(failure, Failure)
    with pytest.raises(StoreRefusal):
        store.store.download_many(wanted[2:], tmp_path, LIMIT)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("RequestTimeTooSkewed", "clock"),
        ("ExpiredToken", "check the keys"),
        ("InvalidAccessKeyId", "check the keys"),
        ("SignatureDoesNotMatch", "check the keys"),
        ("AuthorizationHeaderMalformed", "region"),
        ("NoSuchBucket", "no bucket"),
    ],
)
def test_what_is_about_the_caller_is_no_object_s_failure(bucket: Any, store: Any, code: str, remedy: str) -> None:
    wanted = planned(bucket, "a", "b")
    store.spoil = lambda http: denied(http, code)
    with pytest.raises(StoreRefusal, match=remedy):
        store.store.read_many(wanted, LIMIT)
    assert store.proxy.refusals <= 2, "nothing is asked again"


def test_keys_that_are_gone_are_about_the_caller(bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = planned(bucket, "a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreRefusal, match="no keys"):
        ObjectStore(endpoint_url=bucket.endpoint).read_many(wanted, LIMIT)


def test_a_folder_whose_files_may_not_be_read_refuses_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(4):
        (tmp_path / f"{k}").write_bytes(b"x")
    store = ObjectStore()
    wanted = list(store.inventory([f"file://{tmp_path}/*"]).select("uri", "object_version").rows())
    forbid_opening(monkeypatch, PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(StoreRefusal, match="Permission denied"):
        store.read_many(wanted, LIMIT)


def test_too_many_open_files_are_no_file_s_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"x")
    store = ObjectStore()
    wanted = list(store.inventory([f"file://{tmp_path}/*"]).select("uri", "object_version").rows())
    forbid_opening(monkeypatch, OSError(errno.EMFILE, "Too many open files"))
    with pytest.raises(StoreRefusal, match="Too many open files"):
        store.read_many(wanted, LIMIT)


def test_a_disk_that_is_full_is_no_object_s_failure(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((uri, version),) = planned(bucket, "a.mp4")

    class Full(io.FileIO):
        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda path, mode: Full(path, mode))
    shard = Shard(0, "gemini", MediaKind.VIDEO, (ShardItem(uri, version, 5, ("asked",)),), ())
    spec = EnrichmentSpec(
        source=[uri],
        catalog=str(tmp_path),
        enrichments=[{"capability": "video captioning"}],
        store=StoreSettings(endpoint_url=bucket.endpoint),
    )
    with pytest.raises(StoreRefusal, match="No space left on device; make room there, or set TMPDIR"):
        fetch.fn(shard, spec)


def forbid_opening(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def opened(*_: Any) -> Any:
        raise error

    monkeypatch.setattr("sightflow.blocks.store.local.open", opened, raising=False)
