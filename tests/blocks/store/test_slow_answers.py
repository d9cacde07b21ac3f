"""A store that answers a byte at a time: given up in a time that goes with the size, and not held for ever."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import Cause, Failure, StoreError
from tests.loopback.stores.s3_proxy import S3Proxy, Trickle

LIMIT = 1 << 20


@pytest.fixture
def store(bucket: Any) -> Iterator[ObjectStore]:
    """A store that never leaves half a second without a byte."""
    with S3Proxy(bucket.endpoint, lambda http, times: Trickle()) as proxy:
        yield ObjectStore(endpoint_url=proxy.url, attempts=1, timeout=0.5)


def test_an_object(bucket: Any, store: ObjectStore, tmp_path: Path) -> None:
    uri = bucket.put("a", bytes(2000))
    (failure,) = store.read_many([(uri, "")], LIMIT)
    assert isinstance(failure, Failure) and failure.cause is Cause.FETCH and "TimeoutError" in failure.message
    (failure,) = store.download_many([(uri, "")], tmp_path, LIMIT)
    assert isinstance(failure, Failure) and list(tmp_path.iterdir()) == []


def test_a_listing(bucket: Any, store: ObjectStore) -> None:
    bucket.put("a", b"")
    with pytest.raises(StoreError, match="does not answer"):
        store.inventory([f"s3://{bucket.name}/**"])


def test_a_small_file_of_our_own(bucket: Any, store: ObjectStore) -> None:
    uri = bucket.put("a", bytes(2000))
    with pytest.raises(StoreError, match="does not answer"):
        store.read(uri)
