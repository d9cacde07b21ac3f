"""The patterns of a source: which URIs they match, and where a store is to be listed for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from fsspec.utils import glob_translate

from sightflow.blocks.store.s3_listing import Root
from sightflow.schemas.object_uri import ObjectUri

_GLOB_START = re.compile(r"[*?\[]")


def matcher(pattern: str) -> Callable[[str], bool]:
    """A test whether a URI matches a source pattern."""
    if pattern.endswith("/"):
        pattern += "**"
    literal = literal_prefix(pattern)
    if pattern == literal + "**" and literal.endswith("/"):
        return lambda uri: uri.startswith(literal)
    if not _GLOB_START.search(pattern):
        return pattern.__eq__
    expression = re.compile(glob_translate(pattern))
    return lambda uri: expression.match(uri) is not None


def source_filter(patterns: Sequence[str], outside: str | None = None) -> Callable[[str], bool]:
    """A test whether a URI belongs to a source: it matches a pattern and does not lie below `outside`.

    Text all through: it is asked about every object of a listing.
    """
    tests = [matcher(pattern) for pattern in patterns]
    barrier = outside.rstrip("/") + "/" if outside else None
    return lambda uri: not (barrier and uri.startswith(barrier)) and any(test(uri) for test in tests)


def literal_prefix(pattern: str) -> str:
    """What every URI that matches a pattern begins with."""
    return _GLOB_START.split(pattern, maxsplit=1)[0]


def listing_roots(patterns: Sequence[str]) -> list[Root]:
    """Where buckets are to be listed for these patterns of buckets, no key twice.

    Raises InvalidUriError for a pattern without a bucket.
    """
    literals = {pattern: literal_prefix(pattern) for pattern in patterns}
    open_ended = {literal for pattern, literal in literals.items() if literal != pattern or pattern.endswith("/")}
    least = sorted(one for one in open_ended if not any(one != each and one.startswith(each) for each in open_ended))
    exact = sorted(one for one in {*literals.values()} - open_ended if not one.startswith(tuple(least)))
    located = [(uri in exact, ObjectUri.parse(uri)) for uri in (*least, *exact)]
    return [Root(uri.bucket, uri.key, until=uri.key if is_exact else None) for is_exact, uri in located]
