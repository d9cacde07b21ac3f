"""Whether what came back for ListObjectsV2 is a listing: a gateway, a proxy or a sign-in page may answer in its place.

Such an answer has the status 200, and parsed as XML it is a listing of nothing. ListObjectsV2 in the S3 API reference
says what a listing holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import polars as pl

from sightflow.blocks.store.backend import UriFilter
from sightflow.blocks.store.buckets.listing import NotAListing, Page
from sightflow.blocks.store.inventory import columns_to_inventory, version_of
from sightflow.schemas.object_uri import ObjectUri, Scheme
from sightflow.schemas.run.discovered import Skips

_ROOT = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:(?:<\?.*?\?>|<!--.*?-->)\s*)*<(?:[\w.-]+:)?([\w.-]+)", re.DOTALL)
_TRUNCATED = re.compile(rb"<(?:[\w.-]+:)?IsTruncated\s*>\s*(?:true|false)\s*</")
_ALIAS = "-s3alias"  # an access point, which may answer with the name of its bucket
_SHOWN = 80
_LARGEST_SIZE = 2**63 - 1
_LARGEST_ANSWER = 64 * 2**20  # a thousand keys of a kilobyte take some two
_LISTED = (200, 500)  # 500: botocore's word for an answer of 200 that is no XML


class AnswerTooLarge(Exception):
    """An answer that is no object, and larger than any that S3 gives."""


@cache
def bounded_session() -> type:
    """The SDK's HTTP session with a bound on what it holds of an answer: listings, heads, errors; never an object."""
    from aiobotocore.awsrequest import AioAWSResponse
    from aiobotocore.httpsession import AIOHTTPSession

    class BoundedAnswer(AioAWSResponse):  # type: ignore[misc]
        _content: bytes | None

        async def _content_prop(self) -> bytes:
            if self._content is None:
                held = bytearray()
                async for part in self.raw.content.iter_chunked(2**16):
                    held += part
                    if len(held) > _LARGEST_ANSWER:
                        self.raw.close()
                        raise AnswerTooLarge(f"it sent more than {_LARGEST_ANSWER >> 20} MiB that are no object")
                self._content = bytes(held)
            return self._content

    class BoundedSession(AIOHTTPSession):  # type: ignore[misc]
        async def send(self, request: Any) -> Any:
            is_object, request.stream_output = request.stream_output, True
            answer = await super().send(request)
            bounded = BoundedAnswer(answer.url, answer.status_code, answer.headers, answer.raw)
            if not is_object:
                await bounded.content
            return bounded

    return BoundedSession


def check_body(response_dict: Mapping[str, Any], **_: Any) -> None:
    """Raise NotAListing for a body that is no ListBucketResult; a handler of botocore's event `before-parse`."""
    status, body = response_dict["status_code"], response_dict["body"]
    root = _ROOT.match(body)
    name = root[1] if root else b""
    if status not in _LISTED or name == b"Error":
        return
    if name != b"ListBucketResult":
        raise NotAListing(f"it begins with {body[:_SHOWN].decode(errors='replace')!r}")
    if _TRUNCATED.search(body) is None:
        raise NotAListing("it does not say whether more follows (IsTruncated)")


def check_page(page: Page, bucket: str, prefix: str) -> None:
    """Raise NotAListing for a page of another bucket or of keys that were not asked for."""
    name = page.get("Name")
    if name != bucket and not bucket.endswith(_ALIAS):
        raise NotAListing(f"it is of the bucket {name!r}")
    for entry in page.get("Contents", []):
        if not entry.get("Key", "").startswith(prefix) or not entry.get("Key"):
            raise NotAListing(f"it holds the key {entry.get('Key')!r}")
    if not all(entry.get("Prefix") for entry in page.get("CommonPrefixes", [])):
        raise NotAListing("it holds a folder without a name")


def objects_of(bucket: str, objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The URI and the entry of each object of a page, without the markers of folders."""
    root = str(ObjectUri(Scheme.S3, bucket, ""))
    # A key that ends in a slash and holds nothing marks an empty "folder", made by consoles.
    return ((root + each["Key"], each) for each in objects if each.get("Size") or not each["Key"].endswith("/"))


def inventory_of(bucket: str, objects: list[dict[str, Any]], include: UriFilter, skips: Skips) -> pl.DataFrame:
    """A page of a listing in the form of `Inventory`."""
    kept = [(uri, each) for uri, each in objects_of(bucket, objects) if include(uri)]
    if odd := {uri for uri, each in kept if not each.get("ETag") or not 0 <= each.get("Size", -1) <= _LARGEST_SIZE}:
        for uri in sorted(odd):
            skips.add(uri, "the listing gives no ETag or size")
        kept = [(uri, each) for uri, each in kept if uri not in odd]
    return columns_to_inventory(
        [uri for uri, _ in kept],
        [version_of(each["ETag"], each["Size"]) for _, each in kept],
        [each["Size"] for _, each in kept],
        [each.get("LastModified") for _, each in kept],
    )
