"""What answers in the place of a store is no empty bucket, and a listing that goes in circles ends."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreError
from sightflow.schemas.run.discovered import Skips
from tests.loopback.stores.s3_proxy import Refuse, S3Proxy

ENTRY = "<Contents><Key>{key}</Key><Size>1</Size><ETag>&quot;e&quot;</ETag></Contents>"


def listing(inner: str, name: str = "{bucket}", truncated: str = "<IsTruncated>false</IsTruncated>") -> str:
    return f"<ListBucketResult><Name>{name}</Name>{truncated}{inner}</ListBucketResult>"


MORE = "<IsTruncated>true</IsTruncated>"
ODD = {
    "a page": "<html><head><title>Sign in</title></head></html>",
    "a page that is no XML": "<!doctype html><p>Maintenance<br>",
    "nothing": "",
    "JSON": '{"error": "not found"}',
    "another document": "<?xml version='1.0'?><!-- here --><ListAllMyBucketsResult/>",
    "another root with the fields": "<Result><Name>{bucket}</Name><IsTruncated>false</IsTruncated></Result>",
    "another bucket": listing("", name="other"),
    "no name": "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
    "no word of more": listing("", truncated=""),
    "an odd word of more": listing("", truncated="<IsTruncated>maybe</IsTruncated>"),
    "keys that were not asked for": listing(ENTRY.format(key="elsewhere/x.png")),
    "more, and not where": listing(ENTRY.format(key="in/a"), truncated=MORE),
    "the same page again": listing(
        ENTRY.format(key="in/a"), truncated=MORE + "<NextContinuationToken>t</NextContinuationToken>"
    ),
    "the same page at other places": listing(
        ENTRY.format(key="in/a"), truncated=MORE + "<NextContinuationToken>{turn}</NextContinuationToken>"
    ),
    "nothing for ever": listing("", truncated=MORE + "<NextContinuationToken>{turn}</NextContinuationToken>"),
}


def answering(body: str, bucket: str, good_after: int | None = None) -> Callable[[BaseHTTPRequestHandler, int], Any]:
    turns = count()

    def spoil(http: BaseHTTPRequestHandler, _: int) -> Refuse | None:
        turn = next(turns)
        if good_after is not None and turn >= good_after:
            return None
        return Refuse(200, body.replace("{bucket}", bucket).replace("{turn}", f"t{turn}"))

    return spoil


@pytest.mark.parametrize("answer", ODD)
def test_an_answer_that_is_no_listing_is_no_empty_one(bucket: Any, answer: str) -> None:
    bucket.put("in/a", b"x")
    with S3Proxy(bucket.endpoint, answering(ODD[answer], bucket.name)) as proxy:
        store = ObjectStore(endpoint_url=proxy.url, attempts=1)
        with pytest.raises(StoreError, match="did not answer with a listing"):
            store.inventory([f"s3://{bucket.name}/in/**"])
        with pytest.raises(StoreError, match="did not answer with a listing"):
            store.list_prefix(f"s3://{bucket.name}/in/")


def test_a_page_that_passes_is_asked_for_again(bucket: Any) -> None:
    uri = bucket.put("in/a", b"x")
    with S3Proxy(bucket.endpoint, answering(ODD["a page"], bucket.name, good_after=2)) as proxy:
        found = ObjectStore(endpoint_url=proxy.url).inventory([f"s3://{bucket.name}/in/**"])
    assert found["uri"].to_list() == [uri]


def test_an_entry_that_makes_no_sense_costs_no_other(bucket: Any) -> None:
    odd_time = ENTRY.format(key="in/b").replace("<Size>", "<LastModified>at noon</LastModified><Size>")
    no_etag = "<Contents><Key>in/c</Key><Size>1</Size></Contents>"
    below_zero = ENTRY.format(key="in/d").replace("<Size>1<", "<Size>-1<")
    body = listing(ENTRY.format(key="in/a") + odd_time + no_etag + below_zero)
    with S3Proxy(bucket.endpoint, answering(body, bucket.name)) as proxy:
        skips = Skips()
        found = ObjectStore(endpoint_url=proxy.url).inventory([f"s3://{bucket.name}/in/**"], skips=skips)
    root = f"s3://{bucket.name}/in/"
    assert found["uri"].to_list() == [root + "a", root + "b"]
    assert skips.unlisted == {root + "c", root + "d"} and skips.complete
    assert [each.count for each in skips.summary] == [2]


def test_a_key_without_a_pattern_is_an_object_or_a_folder(bucket: Any, tmp_path: Path) -> None:
    root = f"s3://{bucket.name}"
    for key in ("a", "a.txt", "a/b", "a/c/d", "a0", "e/f"):
        bucket.put(key, b"x")
        file = tmp_path / key.replace("a/", "a_/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    store = ObjectStore(endpoint_url=bucket.endpoint)

    def keys(*patterns: str) -> list[str]:
        found = store.inventory([f"{root}{pattern}" for pattern in patterns])["uri"]
        return sorted(uri.removeprefix(root) for uri in found)

    assert keys("/a") == ["/a", "/a/b", "/a/c/d"]
    assert keys("/e") == keys("/e/", "/e/f") == ["/e/f"]
    assert keys("") == keys("/") and len(keys("")) == 6
    assert keys("/{a.txt,e}", "/a/{b,c/*}") == ["/a.txt", "/a/b", "/a/c/d", "/e/f"]
    assert keys("/a[.]txt") == ["/a.txt"]
    here = store.inventory([f"file://{tmp_path}/a_", f"file://{tmp_path}/{{a_,e}}/*"])["uri"]
    assert sorted(uri.removeprefix(f"file://{tmp_path}") for uri in here) == ["/a_/b", "/a_/c/d", "/e/f"]
