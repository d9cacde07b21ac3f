"""Listing in parallel: every key exactly once, whatever the names; few requests for few keys, many at once for many."""

import asyncio
import re
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from fsspec.utils import glob_translate
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sightflow.blocks.store.buckets.listing import Listing, Root
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.blocks.store.patterns import source_filter
from sightflow.schemas.failure import StoreError
from tests.loopback.stores.s3_proxy import Refuse, S3Proxy


class Shelf:
    """ListObjectsV2 over a set of keys as S3 documents it, in pages of `size`, with a turn of the loop for latency."""

    def __init__(self, keys: set[str], size: int = 10, ordered: bool = True) -> None:
        self.keys = sorted(keys) if ordered else sorted(keys, key=hash)
        self.size, self.ordered = size, ordered
        self.requests = self.in_flight = self.most_in_flight = 0

    async def ask(
        self, Bucket: str, Prefix: str, StartAfter: str = "", ContinuationToken: str = "", Delimiter: str = ""
    ) -> dict[str, Any]:
        self.requests += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        below = self.keys[bisect_right(self.keys, ContinuationToken or StartAfter) :] if self.ordered else self.keys
        below = [key for key in below if key.startswith(Prefix)]
        if not self.ordered and ContinuationToken:  # such a store takes no StartAfter
            below = below[below.index(ContinuationToken) + 1 :]
        if Delimiter:
            heads = [
                Prefix + key[len(Prefix) :].partition(Delimiter)[0] + Delimiter
                for key in below
                if Delimiter in key[len(Prefix) :]
            ]
            return {"CommonPrefixes": [{"Prefix": head} for head in sorted(set(heads))][: self.size]}
        page = below[: self.size]
        more = {"IsTruncated": True, "NextContinuationToken": page[-1]} if len(below) > self.size else {}
        return {"Contents": [{"Key": key} for key in page], **more}

    def listed(self, prefix: str = "", concurrency: int = 32) -> list[str]:
        listing = Listing(self.ask, concurrency, lambda _, page: [each["Key"] for each in page])
        return [key for page in asyncio.run(listing.chunks([Root("b", prefix)])) for key in page]


# Few characters, so that folders, runs of slashes and common beginnings come about; some at the edges of Unicode.
names = st.text(st.sampled_from("/a/b01.-!0 +%é￿\U0001f600\U0010ffff퟿\x01\n"), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(st.sets(names, max_size=80), st.integers(1, 5), st.integers(1, 9), st.sampled_from(["", "a", "a/", "/", "b0"]))
def test_every_key_is_listed_once_and_in_order(keys: set[str], size: int, concurrency: int, prefix: str) -> None:
    shelf = Shelf(keys, size)
    expected = [key for key in shelf.keys if key.startswith(prefix)]
    assert shelf.listed(prefix, concurrency) == expected
    assert shelf.most_in_flight <= 10 * concurrency  # what is asked about folders on the way comes on top


@settings(max_examples=50, deadline=None)
@given(st.sets(names, max_size=60), st.integers(1, 5))
def test_a_store_that_keeps_no_order_is_listed_too(keys: set[str], size: int) -> None:
    listed = Shelf(keys, size, ordered=False).listed()
    assert sorted(listed) == sorted(keys)


LAYOUTS: dict[str, Callable[[int], str]] = {
    "a flat folder, numbered": lambda k: f"frames/{k:012d}.jpg",
    "a flat folder, numbered without zeros": lambda k: f"frames/frame{k}.jpg",
    "a flat folder of hashes": lambda k: f"{hash((k, 1)) & 0xFFFFFFFFFFFFFFFF:016x}.png",
    "folders of days": lambda k: f"2026/{k // 400 + 1:02d}/{k // 25 % 16 + 1:02d}/cam{k % 7}/{k:07d}.jpg",
    "a folder for each of many users": lambda k: f"photos/user_{k // 2:08d}/{k % 2}.jpg",
    "one large folder beside small ones": lambda k: f"{f'small{k}' if k < 30 else 'large'}/deep/er/{k:06d}.jpg",
    "folders that are a page each": lambda k: f"in/{k // 20:03d}/{k:08d}.jpg",
    "classes and pictures": lambda k: f"train/n{k // 100 * 37 + 1440764:08d}/n_{k * 7919 % 20011}.JPEG",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_requests_are_in_flight_for_any_usual_layout(layout: str) -> None:
    """200 pages here; what counts is how many requests follow one another."""
    shelf = Shelf({LAYOUTS[layout](k) for k in range(4000)}, size=20)
    turns = 0

    async def ask(**arguments: Any) -> dict[str, Any]:
        nonlocal turns
        waiting.append(asyncio.get_running_loop().create_future())
        if len(waiting) == 1:
            asyncio.get_running_loop().call_later(0, lambda: asyncio.get_running_loop().call_soon(answer))
        await waiting[-1]
        return await shelf.ask(**arguments)

    def answer() -> None:
        nonlocal turns
        turns += 1
        for future in waiting:
            future.set_result(None)
        waiting.clear()

    waiting: list[asyncio.Future[None]] = []
    listing = Listing(ask, 32, lambda _, page: [each["Key"] for each in page])
    pages = asyncio.run(listing.chunks([Root("b", "")]))
    assert [key for page in pages for key in page] == shelf.keys
    # A range of its own for each folder of a page costs most: its end is only seen on a second page.
    assert turns <= 200 / 4 and shelf.requests <= 200 * 2.75


# What a store takes as a key and S3's XML can say; a hostile client's, but a client's.
stored = st.text(st.sampled_from("/a/b01.-!0 +%é￿\U0001f600"), min_size=1, max_size=8).filter(
    lambda key: not key.startswith("/") and "/./" not in f"/{key}/" and "/../" not in f"/{key}/"
)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(keys=st.sets(stored, min_size=20, max_size=60), prefix=st.sampled_from(["", "a", "a/", "b0"]))
@example(keys={f"a/{k:03d}" for k in range(40)} | {"a//", "a/", "a0", "a", "a/é/x", "a/é//x"}, prefix="a")
def test_a_real_endpoint_lists_the_same_in_parallel_as_page_by_page(
    s3_endpoint: str, keys: set[str], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    bucket = "parallel-listing"
    client.create_bucket(Bucket=bucket)
    try:
        for key in keys:
            client.put_object(Bucket=bucket, Key=key, Body=b"x")
        one_by_one = [
            each["Key"]
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            for each in page.get("Contents", [])
        ]
        uris = ObjectStore(endpoint_url=s3_endpoint).list_prefix(f"s3://{bucket}/{prefix}")
        assert uris == [f"s3://{bucket}/{key}" for key in one_by_one] and len(one_by_one) == len(set(one_by_one))
        assert {*one_by_one} == {key for key in keys if key.startswith(prefix)}
    finally:
        for key in keys:
            client.delete_object(Bucket=bucket, Key=key)
        client.delete_bucket(Bucket=bucket)


@pytest.mark.parametrize(("keys", "requests"), [(0, 1), (1000, 1), (1001, 2), (2000, 2)])
def test_few_keys_cost_no_request_beside_their_pages(keys: int, requests: int) -> None:
    shelf = Shelf({f"{folder}/{k}" for k in range(keys) for folder in "ab"}, size=1000)
    shelf.listed("a/")
    assert shelf.requests == requests
    listing = Listing(shelf.ask, 32, lambda _, page: page)
    asyncio.run(listing.chunks([Root("b", "a/"), Root("b", "b/")]))
    assert shelf.requests == 3 * requests, "the pages of one place are no reason to cut another"


def test_overlapping_patterns_and_single_objects_are_listed_once(bucket: Any) -> None:
    store = ObjectStore(endpoint_url=bucket.endpoint)
    for key in ("a/1.jpg", "a/2.png", "a/b/3.jpg", "c", "c.txt", "folder/", "film.MP4"):
        bucket.put(key, b"" if key == "folder/" else b"x")
    root = f"s3://{bucket.name}"
    found = store.inventory([f"{root}/a/**", f"{root}/a/b/**", f"{root}/a/*.png", f"{root}/c", f"{root}/film*"])
    kinds = {uri.removeprefix(root + "/"): kind for uri, kind in found.select("uri", "media_kind").iter_rows()}
    assert kinds == dict.fromkeys(("a/1.jpg", "a/2.png", "a/b/3.jpg"), "image") | {"c": None, "film.MP4": "video"}
    assert found.height == len(kinds)
    assert store.inventory([f"{root}/"], outside=f"{root}/a").height == 3  # c, c.txt, film; no marker of a folder
    assert store.inventory([f"{root}/nothing/**"]).is_empty()


def test_a_store_that_refuses_in_the_middle_of_a_listing_stops_it(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
    for k in range(9):
        bucket.put(f"{k}", b"x")
    pages = 0

    def refuse(http: Any, _: int) -> Refuse | None:
        nonlocal pages
        pages += 1
        return Refuse(403, "<Error><Code>AccessDenied</Code></Error>") if pages > 1 else None

    with S3Proxy(bucket.endpoint, refuse) as proxy, pytest.raises(StoreError, match="refuses to let us read"):
        ObjectStore(endpoint_url=proxy.url).inventory([f"s3://{bucket.name}/**"])


@pytest.mark.parametrize(
    "pattern", ["s3://b/p/**", "s3://b/p/", "s3://b/**", "s3://b/p/**/*.jpg", "s3://b/p/*", "s3://b/[p]/?"]
)
@given(rest=st.text(st.sampled_from("/p.jgx\n"), max_size=8))
def test_a_pattern_takes_what_its_regular_expression_takes(pattern: str, rest: str) -> None:
    whole = glob_translate(pattern + "**" if pattern.endswith("/") else pattern)
    for uri in (f"s3://b/{rest}", f"s3://b/p/{rest}"):
        assert source_filter([pattern])(uri) == bool(re.match(whole, uri))
