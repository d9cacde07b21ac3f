"""A page of a listing: whether it is of what was asked, and what of it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from sightflow.blocks.store.backend import UriFilter
from sightflow.blocks.store.buckets.listing import NotAListing, Page
from sightflow.blocks.store.inventory import columns_to_inventory, version_of
from sightflow.schemas.object_uri import ObjectUri
from sightflow.schemas.run.discovered import Skips

_ALIAS = "-s3alias"  # an access point, which may answer with the name of its bucket
_LARGEST_SIZE = 2**63 - 1


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


def objects_of(bucket: ObjectUri, objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The URI and the entry of each object of a page, without the markers of folders."""
    root = str(bucket)
    # A key that ends in a slash and holds nothing marks an empty "folder", made by consoles.
    return ((root + each["Key"], each) for each in objects if each.get("Size") or not each["Key"].endswith("/"))


def inventory_of(bucket: ObjectUri, objects: list[dict[str, Any]], include: UriFilter, skips: Skips) -> pl.DataFrame:
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
