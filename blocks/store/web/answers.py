"""What a hub answers, read within bounds and believed in nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

Kind = TypeVar("Kind")

_MOST_BYTES = 64 * 2**20
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NEXT = re.compile(r'<([^<>\s]{1,4000})>\s*;\s*rel="?next"?')


class NoSuchAnswer(ConnectionError):
    """An answer that no hub gives: a page of a gateway or a sign-in, perhaps. It may be another one next time."""


async def read_json(answer: Any, kind: type[Kind]) -> Kind:
    """The JSON of an answer, at most 64 MiB. Raises NoSuchAnswer."""
    held = bytearray()
    async for part in answer.content.iter_chunked(2**16):
        held += part
        if len(held) > _MOST_BYTES:
            raise NoSuchAnswer(f"it sent more than {_MOST_BYTES >> 20} MiB")
    try:
        found = json.loads(bytes(held))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, kind):
        raise NoSuchAnswer(f"it did not answer with what a hub does, but with {bytes(held[:80])!r}")
    return found


def next_page(answer: Any, endpoint: str) -> str:
    """The address of the page behind this one (`Link`, RFC 8288), of the same hub; empty if it is the last."""
    found = _NEXT.search(answer.headers.get("Link", ""))
    if not found:
        return ""
    if urlsplit(found[1])[:2] != urlsplit(endpoint)[:2]:
        raise NoSuchAnswer("its next page is of another host")
    return found[1]


def entries_of(entries: Iterable[Any], odd: Callable[[], None]) -> Iterator[tuple[str, str, int]]:
    """Path, hash and bytes of each file among the entries of a tree; `odd` is called for one that makes no sense."""
    for entry in entries:
        match entry:
            case {"type": "directory"}:
                continue
            case {"type": "file", "path": str(path), "size": int(size), "oid": str(oid)} if path and size >= 0:
                large = entry.get("lfs")
                digest = large.get("oid") if isinstance(large, dict) else oid
                if isinstance(digest, str) and _DIGEST.fullmatch(digest) and size < 2**62 and _is_text(path):
                    yield path, digest, size
                    continue
        odd()


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
