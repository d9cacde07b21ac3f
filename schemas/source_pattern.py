"""The patterns of a source, and local places, in the one form in which they are compared: canonical.

A pattern is a URI with `*`, `?` and `[..]` within a path segment, `**` across them, and `{a,b}` for one of several
texts. `[*]` is the character `*` itself, and so with `?`, `[` and `{`. A pattern without any of these is an object, or
a folder and all that is below it.

Local paths are made absolute, and the links of the folders that a path begins with are resolved: one file has one URI
however the source spells it. To make what is canonical canonical again changes nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from sightflow.schemas.object_uri import (
    AZURE_SUFFIX,
    AzureAccount,
    InvalidUriError,
    ObjectUri,
    Scheme,
    split_account,
    split_scheme,
)
from sightflow.schemas.web.address import canonical_address, canonical_address_pattern
from sightflow.schemas.web.dataset import split_dataset

_LITERAL = re.compile(r"(?:[^*?\[]|\[[^!^]\])*")
"""What a pattern without braces begins with: characters that stand for themselves, as they are or as `[*]`."""
_ONE_CHARACTER = re.compile(r"\[([^!^])\]")
_SPECIAL = re.compile(r"[*?\[{]")
_RANGE = re.compile(r"\{[\w-]+\.\.[\w-]+(?:\.\.[\w-]+)?\}")
_MOST_ALTERNATIVES = 1000
_PLACES = ("source", "catalog", "listing")


def alternatives(pattern: str) -> list[str]:
    """The patterns without braces that one with `{a,b}` stands for; braces without a comma are text.

    Raises ValueError for more than a thousand.
    """
    found, pending = list[str](), [pattern]
    while pending:
        text = pending.pop()
        if (braces := _first_braces(text)) is None:
            found.append(text)
        else:
            start, commas, end = braces
            edges = [start, *commas, end]
            parts = [text[left + 1 : right] for left, right in pairwise(edges)]
            pending += [text[:start] + part + text[end + 1 :] for part in reversed(parts)]
        if len(found) + len(pending) > _MOST_ALTERNATIVES:
            raise ValueError(
                f"{pattern[:200]!r} stands for more than {_MOST_ALTERNATIVES:,} patterns; write fewer {{}}"
            )
    return found


def is_literal(pattern: str) -> bool:
    """Whether a pattern without braces stands for one text."""
    return _LITERAL.fullmatch(pattern) is not None


def literal_prefix(pattern: str) -> str:
    """What every URI that matches a pattern begins with."""
    first, last = min(found := [_literal(each) for each in alternatives(pattern)]), max(found)
    common = next((k for k, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[:common]


def escape(text: str) -> str:
    """The pattern that stands for just this text."""
    return _SPECIAL.sub(lambda special: f"[{special[0]}]", text)


def check_pattern(pattern: str) -> None:
    """Raise ValueError for what looks like a pattern and would match nothing."""
    if ranged := _RANGE.search(_ONE_CHARACTER.sub("", pattern)):
        raise ValueError(f"{pattern!r}: {ranged[0]} is no pattern; write the texts with commas: {{1,2,3}}")
    for each in alternatives(pattern):
        if any("**" in segment and segment != "**" for segment in _ONE_CHARACTER.sub("", each).split("/")):
            raise ValueError(f"{pattern!r}: ** stands alone between slashes, e.g. folder/**/*.jpg")


def canonical_source(text: str, folder: str | None = None) -> str:
    """A source as one pattern of URIs; a relative path is taken from `folder`, or the working directory.

    A segment with `[` or `{` that is there by just this name is that name. Raises ValueError for what names no place.
    """
    scheme, rest = split_scheme(text)
    if scheme is Scheme.HTTPS:
        return _address(text, canonical_address_pattern)
    if scheme is Scheme.HUB:
        split_dataset(literal_prefix(text))
    if scheme.has_buckets:
        return text if "/" in rest else f"{text}/"
    base = folder or os.getcwd()
    path = _local_text(text, base)
    if path.startswith("~"):
        home, slash, below = path.partition("/")
        path = escape(os.path.expanduser(home)) + slash + below
    literal, segments = _split_literal(os.path.join(escape(base), path))
    if segments:
        if ".." in segments:
            raise ValueError(f"{text!r}: .. behind a pattern names no folder; write where it leads")
        inner = [segment for segment in segments[:-1] if segment not in ("", ".")]
        last = "" if segments[-1] == "." else segments[-1]
        return str(ObjectUri.from_path("/".join([escape(_real_path(literal)).rstrip("/"), *inner, last])))
    above, name = os.path.split(literal)
    found = os.path.join(_real_path(above), name)
    if name in ("", ".", "..") or os.path.isdir(found):
        found = _real_path(found).rstrip("/") + "/"
    # Else a file, which may be a link: an object of its own, under its own name.
    return str(ObjectUri.from_path(escape(found)))


def canonical_place(text: str, folder: str | None = None) -> str:
    """A folder or a file as its URI, no pattern; a relative path is taken from `folder`, or the working directory."""
    if (scheme := split_scheme(text)[0]).has_buckets:
        return _address(text, canonical_address) if scheme is Scheme.HTTPS else text
    base = folder or os.getcwd()
    path = os.path.join(base, os.path.expanduser(_local_text(text, base)))
    return str(ObjectUri.from_path(_real_path(path)))


def with_one_account(document: Any) -> Any:
    """The values of a spec, with `abfss://container@account...` as `az://container` and the account in `store`.

    One object has one URI however it is spelled, and an account stands for all addresses of a spec, as an endpoint of
    S3 does. Raises ValueError for addresses of two accounts.
    """
    if not isinstance(document, Mapping):
        return document
    accounts = set[AzureAccount]()

    def plain(given: Any) -> Any:
        if isinstance(given, list | tuple):
            return [plain(each) for each in given]
        text, account = split_account(given) if isinstance(given, str) else (given, None)
        accounts.update([account] if account else [])
        return text

    changed = {place: plain(document[place]) for place in _PLACES if place in document}
    if not accounts:
        return document
    store = document.get("store") or {}
    held = store.model_dump(exclude_unset=True) if isinstance(store, BaseModel) else store
    return {**document, **changed, "store": _with_account(held, accounts)}


def _with_account(store: Any, accounts: Iterable[AzureAccount]) -> Any:
    if not isinstance(store, Mapping):
        return store  # which is told elsewhere
    account, *others = sorted(accounts, key=lambda each: each.name)
    named = {store.get("azure_account") or account.name, account.name}
    if others or len(named) > 1:
        names = ", ".join(sorted({*named, *(each.name for each in others)}))
        raise ValueError(f"there are addresses of several Azure accounts ({names}); write a spec for each")
    usual = account.suffix == AZURE_SUFFIX or store.get("azure_endpoint_url")
    address = {} if usual else {"azure_endpoint_url": f"https://{account.name}.blob.{account.suffix}"}
    return {**store, "azure_account": account.name, **address}


def canonical_object(uri: str) -> str:
    """The URI of a local file as a listing would give it, its folder's links resolved; an address of the web in its one
    form; any other URI as it is.

    Raises ValueError for what is no URI and no absolute path.
    """
    if "://" in uri and split_scheme(uri.strip())[0] is Scheme.HTTPS:
        return canonical_address(uri)
    parsed = ObjectUri.from_path(uri) if uri.startswith("/") else ObjectUri.parse(uri)
    if parsed.scheme.has_buckets:
        return uri
    above, name = os.path.split(parsed.local_path)
    return str(ObjectUri.from_path(os.path.join(os.path.realpath(above), name)))


def _address(text: str, canonical: Callable[[str], str]) -> str:
    try:
        return canonical(text)
    except ValueError as error:
        raise InvalidUriError(f"{text!r}: {error}; write https://host/path") from None


def missing_part(path: str) -> str:
    """What of a local path is not there yet."""
    there = path
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    return path[len(there) :]


def _literal(pattern: str) -> str:
    found = _LITERAL.match(pattern)
    return _ONE_CHARACTER.sub(r"\1", found[0] if found else "")


def _local_text(text: str, base: str) -> str:
    """The path that a local place is written as, without `file:` and without spaces around it that are not its own."""
    path = split_scheme(text)[1]
    if "://" in text:
        path = path.removeprefix("localhost") if path.startswith("localhost/") else path
        if path.startswith("/"):
            return path
    elif path.startswith("file:/"):
        path = path.removeprefix("file:")
    return path if path == path.strip() or os.path.lexists(os.path.join(base, path)) else path.strip()


def _split_literal(path: str) -> tuple[str, list[str]]:
    """The folder or file that an absolute pattern begins with, as its name is, and the segments from the first glob."""
    literal, segments = "/", path.split("/")[1:]
    for place, segment in enumerate(segments):
        name = _literal(segment) if is_literal(segment) and "{" not in _ONE_CHARACTER.sub("", segment) else None
        if name is None and re.search(r"[\[{]", segment) and os.path.lexists(os.path.join(literal, segment)):
            name = segment
        if name is None:
            return literal, segments[place:]
        if name == "..":
            literal, name = os.path.dirname(os.path.realpath(literal)), ""
        literal = os.path.join(literal, name)
    return literal, []


def _real_path(path: str) -> str:
    """An absolute path without links, `.`, `..` and doubled slashes. Raises ValueError for one that is no text."""
    found = "/" + os.path.realpath(path).lstrip("/")
    try:
        found.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{found!r} is not UTF-8; no catalog can hold such a name") from None
    return found


def _first_braces(pattern: str) -> tuple[int, list[int], int] | None:
    """Where the first braces with a comma of their own begin, the places of their commas, and where they end."""
    opened: list[tuple[int, list[int]]] = []
    first: tuple[int, list[int], int] | None = None
    place = 0
    while place < len(pattern):
        match pattern[place]:
            case "[":
                place = _class_end(pattern, place)
            case "{":
                opened.append((place, []))
            case "," if opened:
                opened[-1][1].append(place)
            case "}" if opened:
                start, commas = opened.pop()
                if commas and (first is None or start < first[0]):
                    first = (start, commas, place)
        place += 1
    return first


def _class_end(pattern: str, start: int) -> int:
    """Where the `[..]` ends that begins here; its own place if none does."""
    found = re.compile(r"\[[!^]?\]?[^\]/]*\]").match(pattern, start)
    return found.end() - 1 if found else start
