"""An object is gone if the store itself says so; one that cannot be looked up is a failure of its own."""

import os
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import Cause, Failure, StoreError
from tests.loopback.stores.s3_proxy import Refuse, S3Proxy, Spoiled

PAGE = "<html><body>Sign in</body></html>"


def spoiling(name: str, answer: Refuse, methods: str = "HEAD GET") -> Callable[[BaseHTTPRequestHandler, int], Spoiled]:
    """Spoil what is asked about one object."""

    def spoil(http: BaseHTTPRequestHandler, _: int) -> Spoiled:
        return answer if http.path.partition("?")[0].endswith(name) and http.command in methods else None

    return spoil


FAULTS = {
    "refused": Refuse(403, "<Error><Code>AccessDenied</Code></Error>"),
    "a page for no object": Refuse(200, PAGE),
    "a page of an error": Refuse(404, PAGE),
    "away": Refuse(502, PAGE),
    "no bucket at a gateway": Refuse(404, "<Error><Code>NoRoute</Code></Error>"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_object_that_cannot_be_looked_up_costs_no_other(bucket: Any, fault: str) -> None:
    good, bad = bucket.put("good.png", b"x"), bucket.put("bad.png", b"x")
    gone = f"s3://{bucket.name}/gone.png"
    odd = [f"s3://{bucket.name}/", f"s3://{bucket.name}/\ud800.png", f"s3://{bucket.name}/{'long' * 400}"]
    with S3Proxy(bucket.endpoint, spoiling("bad.png", FAULTS[fault])) as proxy:
        store = ObjectStore(endpoint_url=proxy.url, attempts=1)
        failed: dict[str, Failure] = {}
        assert store.head_many([bad, *odd, gone, good], failed)["uri"].to_list() == [good]
        assert {bad, *odd[:2]} <= {*failed} and gone not in failed
        assert {failure.cause for failure in failed.values()} == {Cause.FETCH}
        doubtful: dict[str, Failure] = {}
        assert store.gone([bad, gone, good], doubtful) == [gone] and [*doubtful] == [bad]
        with pytest.raises(StoreError, match=r"bad\.png"):
            store.head_many([bad, good])


def test_what_all_objects_are_refused_for_is_raised(bucket: Any) -> None:
    uris = [bucket.put(f"{k}.png", b"x") for k in range(3)]
    refused = Refuse(403, "<Error><Code>AccessDenied</Code></Error>")
    with S3Proxy(bucket.endpoint, spoiling("png", refused)) as proxy:
        store = ObjectStore(endpoint_url=proxy.url, attempts=1)
        with pytest.raises(StoreError, match=r"3 objects cannot be looked up.*AccessDenied"):
            store.head_many(uris, {})
        doubtful: dict[str, Failure] = {}
        assert store.gone(uris, doubtful) == [] and len(doubtful) == 3
    keys = Refuse(403, "<Error><Code>InvalidAccessKeyId</Code></Error>")
    with S3Proxy(bucket.endpoint, spoiling("0.png", keys)) as proxy, pytest.raises(StoreError, match="check the keys"):
        ObjectStore(endpoint_url=proxy.url, attempts=1).head_many(uris, {})


def test_no_object_of_a_missing_bucket_is_gone(s3_endpoint: str) -> None:
    with pytest.raises(StoreError, match="there is no bucket 'not-here'"):
        ObjectStore(endpoint_url=s3_endpoint).gone(["s3://not-here/a.png"], {})


def test_a_file_is_gone_if_its_place_is_empty_and_not_if_nobody_can_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept.png").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "away.png").symlink_to("/nowhere/x.png")
    (tmp_path / "itself.png").symlink_to("itself.png")
    uris = [f"file://{tmp_path}/{name}" for name in ("kept.png", "gone.png", "file/x.png", "away.png", "itself.png")]
    stat = os.stat

    def refused(path: Any, **more: Any) -> os.stat_result:
        if str(path).endswith("secret.png"):
            raise PermissionError(13, "Permission denied")
        return stat(path, **more)

    monkeypatch.setattr(os, "stat", refused)
    failed: dict[str, Failure] = {}
    odd = [f"file://{tmp_path}/secret.png", f"file://{tmp_path}/\0"]
    assert ObjectStore().gone([*uris, *odd], failed) == uris[1:3]
    assert [*failed] == [*uris[3:], *odd]
    assert ObjectStore().head_many([*uris, *odd], {})["uri"].to_list() == uris[:1]
