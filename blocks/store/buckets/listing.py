"""Listing buckets with many requests at once: ranges of keys, that split while fewer requests than allowed are needed.

S3 lists keys in the order of their UTF-8 bytes, which is that of their characters, and begins after any string
(`StartAfter`). So whatever strings cut the keys below a prefix, the ranges between them hold every key exactly once.
Where it is worth while to cut is guessed from the page that was just seen: beside the folders on the way to it, and
within its own folder as far apart as the page is wide, twice, eight times that, and so on. A store that does not list
in this order (S3 directory buckets) is listed page by page.
"""

from __future__ import annotations

import asyncio
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Generic, TypeVar

from sightflow.schemas.object_uri import ObjectUri
from sightflow.schemas.source_pattern import alternatives, is_literal, literal_prefix

Page = dict[str, Any]
"""A page of a listing, by the names of S3's ListObjectsV2."""
ListPage = Callable[..., Awaitable[Page]]
"""Sends ListObjectsV2 with the keywords it is given."""
Chunk = TypeVar("Chunk")

_MAX_KEY_BYTES = 1024  # bytes; S3 takes no longer one, not as StartAfter either
_MAX_DEPTH = 8  # folders on the way to a page whose neighbours are asked for
_UNCUT_PAGES = 2  # most listings have no third page, and these two come one after the other anyway
_CUTS_PER_PAGE = 4  # so that a bucket of a few pages costs few requests more
_PAGES_PER_EMPTY = 4  # nothing is guessed any more while more than one page in so many was empty
_MOST_EMPTY_PAGES = 100  # one after the other: S3 gives some where many keys were deleted
_COMPARED_CHARACTERS = 4  # characters, from the first that differs on a page, by which its width is measured


@dataclass(frozen=True)
class Root:
    """What is listed: the keys of a bucket that begin with `prefix`, up to and with the key `until`, if given."""

    bucket: str
    prefix: str
    until: str | None = None


class NotAListing(ConnectionError):
    """An answer that is no listing of what was asked; it may be one when it is asked again."""


class _UnorderedListing(Exception):
    """The store does not list keys in their order."""


class Listing(Generic[Chunk]):
    """One listing. `convert` turns the objects of a page, never none, into what is kept of them, as they arrive."""

    def __init__(
        self,
        list_page: ListPage,
        concurrency: int,
        convert: Callable[[str, list[dict[str, Any]]], Chunk],
        starts_anywhere: bool = True,
    ) -> None:
        self._starts_anywhere = starts_anywhere
        self._list_page, self._concurrency, self._convert = list_page, concurrency, convert
        self._chunks: list[tuple[Root, str, Chunk]] = []
        self._open_ranges = self._pages = self._empty_pages = 0
        self._pages_by_root = Counter[Root]()
        self._task_group: asyncio.TaskGroup

    async def chunks(self, roots: Sequence[Root]) -> list[Chunk]:
        """List all the roots; the chunks are in the order of the roots, and in that of the keys within each.

        Raises NotAListing if the pages go in circles.
        """
        if not self._starts_anywhere:
            return list(chain.from_iterable(await asyncio.gather(*map(self._list_in_sequence, roots))))
        try:
            async with asyncio.TaskGroup() as self._task_group:
                for root in roots:
                    self._start_range(root, "", root.until)
        except ExceptionGroup as errors:
            if errors.subgroup(_UnorderedListing):
                return [chunk for root in roots for chunk in await self._list_in_sequence(root)]
            raise errors.exceptions[0] from None
        place = {root: k for k, root in enumerate(roots)}
        return [chunk for *_, chunk in sorted(self._chunks, key=lambda kept: (place[kept[0]], kept[1]))]

    def _start_range(self, root: Root, after: str, until: str | None) -> None:
        self._open_ranges += 1
        self._task_group.create_task(self._list_range(root, after, until))

    async def _list_range(self, root: Root, after: str, until: str | None) -> None:
        """Take the keys after `after`, up to and with `until`; hand on what is above a cut as it is made."""
        onward = {"StartAfter": after} if after else {}
        tokens, empty = set[str](), 0
        while True:
            page = await self._list_page(Bucket=root.bucket, Prefix=root.prefix, **onward)
            self._pages += 1
            self._pages_by_root[root] += 1
            objects = page.get("Contents", [])
            keys = [entry["Key"] for entry in objects]
            if any(one >= next_one for one, next_one in pairwise([after, *keys])):
                raise _UnorderedListing
            within = len(keys) if until is None else bisect_right(keys, until)
            self._empty_pages += not within
            if within:
                self._chunks.append((root, keys[0], self._convert(root.bucket, objects[:within])))
            if (keys and until is not None and keys[-1] >= until) or (token := next_token(page, tokens)) is None:
                break
            onward = {"ContinuationToken": token}
            empty = 0 if keys else empty + 1
            if empty > _MOST_EMPTY_PAGES:
                raise NotAListing(f"more than {_MOST_EMPTY_PAGES} pages in a row hold nothing, and more follow")
            if keys:
                after = keys[-1]
                until = await self._split(root, keys, until)
        self._open_ranges -= 1

    async def _split(self, root: Root, keys: Sequence[str], until: str | None) -> str | None:
        """Begin to list what is beyond a page in as many ranges as there are requests to spare; return the new end."""
        if self._pages_by_root[root] < _UNCUT_PAGES or self._spare_requests() <= 0:
            return until
        cuts = await self._folders_beside(root, keys, until)
        if self._empty_pages * _PAGES_PER_EMPTY <= self._pages:
            cuts |= guess_cuts(keys, _folder(keys, root.prefix))
        usable = sorted(
            cut for cut in cuts if keys[-1] < cut and (until is None or cut < until) and _is_valid_start(cut)
        )
        wanted = min(self._spare_requests(), len(usable))  # others may have split meanwhile
        if wanted <= 0:
            return until
        chosen = [usable[k * len(usable) // wanted] for k in range(wanted)]
        for lower, upper in pairwise([*chosen, until]):
            assert lower is not None
            self._start_range(root, lower, upper)
        return chosen[0]

    def _spare_requests(self) -> int:
        return min(self._concurrency - self._open_ranges, _CUTS_PER_PAGE * self._pages)

    async def _folders_beside(self, root: Root, keys: Sequence[str], until: str | None) -> set[str]:
        """The ends of the folders that hold all of a page, and the folders that follow beside them."""
        folder, ends = _folder(keys, root.prefix), dict[str, str]()
        parent = root.prefix
        while (slash := folder.find("/", len(parent))) >= 0 and len(ends) < _MAX_DEPTH:
            end = folder[:slash] + "0"  # the character after the slash: all that is in the folder is before it
            if until is None or end < until:
                ends[parent] = end
            parent = folder[: slash + 1]
        # Where a range ends within the parent, it ends at such a neighbour: they have been asked for.
        unknown = [(parent, end) for parent, end in ends.items() if not (until and until.startswith(parent))]
        requests = [
            self._list_page(Bucket=root.bucket, Prefix=parent, Delimiter="/", StartAfter=end)
            for parent, end in unknown
            if _is_valid_start(end)
        ]
        pages = await asyncio.gather(*requests)
        return {*ends.values(), *(each["Prefix"] for page in pages for each in page.get("CommonPrefixes", []))}

    async def _list_in_sequence(self, root: Root) -> list[Chunk]:
        """As a store lists that knows no order: each page names the next."""
        chunks: list[Chunk] = []
        onward: dict[str, str] = {}
        tokens, seen, empty = set[str](), set[str](), 0
        while True:
            page = await self._list_page(Bucket=root.bucket, Prefix=root.prefix, **onward)
            keys = [each["Key"] for each in page.get("Contents", [])]
            if not seen.isdisjoint(keys) or len(set(keys)) < len(keys):
                raise NotAListing("it holds a key twice")
            seen.update(keys)
            objects = [each for each in page.get("Contents", []) if root.until is None or each["Key"] <= root.until]
            if objects:
                chunks.append(self._convert(root.bucket, objects))
            if (token := next_token(page, tokens)) is None:
                return chunks
            onward = {"ContinuationToken": token}
            empty = 0 if keys else empty + 1
            if empty > _MOST_EMPTY_PAGES:
                raise NotAListing(f"more than {_MOST_EMPTY_PAGES} pages in a row hold nothing, and more follow")


def next_token(page: Page, seen: set[str]) -> str | None:
    """Where the listing goes on, or None at its end; added to `seen`. Raises NotAListing if it goes in circles."""
    if not page.get("IsTruncated"):
        return None
    token = page.get("NextContinuationToken")
    if not token:
        raise NotAListing("it says that more follows, and not where (NextContinuationToken)")
    if token in seen:
        raise NotAListing("it goes on where it was before")
    seen.add(token)
    return str(token)


def guess_cuts(keys: Sequence[str], folder: str) -> set[str]:
    """Strings beyond a page's keys: twice as far from its last as its first is, eight times, 32 times, and so on.

    Distances are those of numbers whose digits are the characters in which the page's keys differ.
    """
    first, last = keys[0], keys[-1]
    differs = _common_length(first, last)
    if first == last or differs >= len(last):
        return set()
    digits = sorted({character for key in keys for character in key[differs : differs + _COMPARED_CHARACTERS]})
    lead = differs
    while lead > len(folder) and last[lead - 1] in digits:
        lead -= 1  # what may be carried into: leading zeros
    places = differs - lead + _COMPARED_CHARACTERS
    values = {character: k for k, character in enumerate(digits)}

    def number(key: str) -> int:
        value = 0
        for character in key[lead : lead + places].ljust(places, digits[0]):
            value = value * len(digits) + values[character]
        return value

    def text(value: int) -> str:
        characters: list[str] = []
        for _ in range(places):
            value, digit = divmod(value, len(digits))
            characters.append(digits[digit])
        return last[:lead] + "".join(reversed(characters))

    # Beyond all names that begin alike; these may not be keys (a half of a surrogate pair): the caller looks.
    end = {last[: lead - 1] + chr(min(ord(last[lead - 1]) + 1, sys.maxunicode))} if lead > len(folder) else set()
    return end | {text(value) for value in _growing_steps(number(first), number(last), len(digits) ** places)}


def _growing_steps(first: int, last: int, beyond: int) -> Iterator[int]:
    step = 2 * max(1, last - first)
    while last + step < beyond:
        yield last + step
        step *= 4


def _folder(keys: Sequence[str], prefix: str) -> str:
    """The deepest folder that holds all the keys of a page, or the prefix."""
    common = keys[0][: _common_length(keys[0], keys[-1])]
    return max(common[: common.rfind("/") + 1], prefix, key=len)


def _common_length(one: str, other: str) -> int:
    """With how many characters both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((k for k, (left, right) in pairs if left != right), min(len(one), len(other)))


def _is_valid_start(key: str) -> bool:
    """Whether every store takes it as a place to begin: S3 repeats it in XML, which has no control characters."""
    return key.isprintable() and len(key.encode()) <= _MAX_KEY_BYTES


def listing_roots(patterns: Sequence[str]) -> list[Root]:
    """Where buckets are to be listed for these patterns of buckets, no key twice.

    Raises InvalidUriError for a pattern without a bucket.
    """
    open_ended, single = set[str](), set[str]()
    for pattern in chain.from_iterable(map(alternatives, patterns)):
        literal = str(ObjectUri.parse(literal_prefix(pattern)))
        if is_literal(pattern) and not literal.endswith("/"):  # an object, or a folder
            single.add(literal)
            literal += "/"
        open_ended.add(literal)
    least = sorted(one for one in open_ended if not any(one != each and one.startswith(each) for each in open_ended))
    exact = sorted(one for one in single if not one.startswith(tuple(least)))
    located = [(uri in exact, ObjectUri.parse(uri)) for uri in (*least, *exact)]
    return [Root(uri.bucket, uri.key, until=uri.key if is_exact else None) for is_exact, uri in located]
