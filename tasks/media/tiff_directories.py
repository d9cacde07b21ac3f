"""The directories (IFDs) of a TIFF structure: what camera raws, TIFF files and EXIF blocks are made of.

Formats: TIFF 6.0, section 2; BigTIFF (libtiff's design page); TIFF/EP and DNG for SubIFDs. Every offset and count is
the file's own word, so what lies outside the content or repeats is passed over, and nothing here raises.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

NEW_SUBFILE_TYPE: Final = 254
SUBFILE_TYPE: Final = 255
WIDTH: Final = 256
LENGTH: Final = 257
PHOTOMETRIC: Final = 262
ORIENTATION: Final = 274
SUB_IFDS: Final = 330
DNG_VERSION: Final = 50706
_READ: Final = frozenset(
    {NEW_SUBFILE_TYPE, SUBFILE_TYPE, WIDTH, LENGTH, PHOTOMETRIC, ORIENTATION, SUB_IFDS, DNG_VERSION}
)
# Type: bytes a value, and the letter of `struct` for the integer ones.
_TYPES: Final = {1: (1, "B"), 2: (1, "B"), 3: (2, "H"), 4: (4, "I"), 6: (1, "b"), 7: (1, "B"), 8: (2, "h"), 9: (4, "i"),
                 13: (4, "I"), 16: (8, "Q"), 17: (8, "q"), 18: (8, "Q")}  # fmt: skip
_MOST_DIRECTORIES: Final = 64
_MOST_VALUES: Final = 32


@dataclass(frozen=True)
class Entry:
    """One entry of a directory: its integers (at most 32)."""

    values: tuple[int, ...]
    stored: bytes  # of values of at most 4 (BigTIFF: 8) bytes, as they stand in the entry


@dataclass
class Directory:
    """One IFD. `sub`: it is reached through the tag SubIFDs of the first directory, not through the chain of pages."""

    sub: bool
    entries: dict[int, Entry] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)  # where each entry's 12 (BigTIFF: 20) bytes lie, by tag

    def value(self, tag: int, default: int = 0) -> int:
        """The first integer of a tag."""
        entry = self.entries.get(tag)
        return entry.values[0] if entry and entry.values else default

    @property
    def pixels(self) -> int:
        return self.value(WIDTH) * self.value(LENGTH)

    @property
    def reduced(self) -> bool:
        """Whether it says of itself that it is a smaller version of another picture."""
        return bool(self.value(NEW_SUBFILE_TYPE) & 1) or self.value(SUBFILE_TYPE) == 2


def read_directories(content: bytes) -> list[Directory]:
    """The pages of a TIFF structure in their order, those that the first one names as SubIFDs after it; at most 64."""
    found_header = header(content)
    if found_header is None:
        return []
    order, big, offset = found_header
    found: list[Directory] = []
    seen: set[int] = set()
    ahead = [(offset, False)]
    while ahead and len(found) < _MOST_DIRECTORIES:
        offset, sub = ahead.pop(0)
        if offset in seen:
            continue
        seen.add(offset)
        try:
            directory, following = _read(content, order, big, offset, sub)
        except struct.error:
            continue
        found.append(directory)
        if not sub and following:
            ahead.append((following, False))
        if len(found) == 1 and SUB_IFDS in directory.entries:
            ahead = [(each, True) for each in directory.entries[SUB_IFDS].values] + ahead
    return found


def orientation_of(content: bytes) -> int | None:
    """The orientation, 1 to 8, in the first directory of a TIFF structure or EXIF block; None where there is none.

    Its type is not asked for: writers store the number as SHORT, as LONG, as BYTE, and as ASCII, raw or as a digit.
    """
    content = content.removeprefix(b"Exif\0\0")
    found_header = header(content)
    if found_header is None:
        return None
    try:
        directory, _ = _read(content, *found_header, sub=False)
    except struct.error:
        return None
    entry = directory.entries.get(ORIENTATION)
    stored = entry.stored.strip(b"\0 ") if entry else b""
    if len(stored) != 1:
        return None
    number = stored[0] - ord("0") if stored.isdigit() else stored[0]
    return number if 1 <= number <= 8 else None


def header(content: bytes) -> tuple[str, bool, int] | None:
    """Byte order as `struct` writes it, whether it is a BigTIFF, and the offset of the first directory; None if it is
    neither.
    """
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    try:
        if order is None:
            return None
        magic = struct.unpack_from(order + "H", content, 2)[0]
        if magic == 43:
            return order, True, struct.unpack_from(order + "Q", content, 8)[0]
        return order, False, struct.unpack_from(order + "I", content, 4)[0]
    except struct.error:
        return None


def _read(content: bytes, order: str, big: bool, offset: int, sub: bool) -> tuple[Directory, int]:
    """One directory, and the offset of the one that follows it."""
    directory = Directory(sub)
    start = offset + (8 if big else 2)
    (count,) = _unpacked(order + ("Q" if big else "H"), content, offset)
    size = 20 if big else 12
    count = min(count, max(len(content) - start, 0) // size)
    for place in range(start, start + count * size, size):
        (tag,) = _unpacked(order + "H", content, place)
        directory.offsets.setdefault(tag, place)
        if tag in _READ and tag not in directory.entries:
            directory.entries[tag] = Entry(*_values(content, order, big, place))
    try:
        (following,) = _unpacked(order + ("Q" if big else "I"), content, start + count * size)
    except struct.error:
        following = 0
    return directory, following


def _values(content: bytes, order: str, big: bool, place: int) -> tuple[tuple[int, ...], bytes]:
    kind, count = _unpacked(order + ("HQ" if big else "HI"), content, place + 2)
    size, letter = _TYPES.get(kind, (1, "B"))
    at, inline = (place + 12, 8) if big else (place + 8, 4)
    stored = content[at : at + min(size * count, inline)]
    if size * count > inline:
        (at,) = _unpacked(order + ("Q" if big else "I"), content, at)
        stored = b""
    try:
        return _unpacked(f"{order}{min(count, _MOST_VALUES)}{letter}", content, at), stored
    except struct.error:
        return (), stored


def _unpacked(form: str, content: bytes, offset: int) -> tuple[int, ...]:
    if offset > len(content):  # also what no C integer holds
        raise struct.error("outside the content")
    return struct.unpack_from(form, content, offset)
