"""The patterns of a source: which URIs they match, and what these begin with."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from fsspec.utils import glob_translate

_GLOB_START = re.compile(r"[*?\[]")


def _matcher(pattern: str) -> Callable[[str], bool]:
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
    tests = [_matcher(pattern) for pattern in patterns]
    barrier = outside.rstrip("/") + "/" if outside else None
    return lambda uri: not (barrier and uri.startswith(barrier)) and any(test(uri) for test in tests)


def literal_prefix(pattern: str) -> str:
    """What every URI that matches a pattern begins with."""
    return _GLOB_START.split(pattern, maxsplit=1)[0]
