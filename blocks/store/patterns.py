"""Which URIs the patterns of a source match."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from sightflow.schemas.source_pattern import alternatives, is_literal, literal_prefix

_SPECIAL = re.compile(r"[*?\[]")


def _matcher(pattern: str) -> Callable[[str], bool]:
    """A test whether a URI matches a pattern without braces."""
    literal = literal_prefix(pattern)
    if is_literal(pattern):
        folder = literal if literal.endswith("/") else literal + "/"
        return lambda uri: uri == literal or uri.startswith(folder)
    if pattern.endswith("/"):
        pattern += "**"
    if pattern.endswith("/**") and is_literal(pattern[:-2]):
        return lambda uri: uri.startswith(literal)
    before, star, after = pattern.partition("*")
    if star and not _SPECIAL.search(before + after) and "/" not in after:
        # What nearly every source is written as; fsspec takes longer to load than ten thousand files to list.
        shortest = len(pattern) - 1 if after or not before.endswith("/") else len(pattern)
        return lambda uri: (
            uri.startswith(before)
            and uri.endswith(after)
            and len(uri) >= shortest
            and "/" not in uri[len(before) : len(uri) - len(after)]
        )
    from fsspec.utils import glob_translate

    expression = re.compile(glob_translate(pattern))
    return lambda uri: expression.match(uri) is not None


def source_filter(patterns: Sequence[str], outside: str | None = None) -> Callable[[str], bool]:
    """A test whether a URI belongs to a source: it matches a pattern and does not lie below `outside`.

    Text all through: it is asked about every object of a listing.
    """
    tests = [_matcher(each) for pattern in patterns for each in alternatives(pattern)]
    barrier = outside.rstrip("/") + "/" if outside else None
    return lambda uri: not (barrier and uri.startswith(barrier)) and any(test(uri) for test in tests)
