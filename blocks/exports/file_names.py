"""File names for objects of a store: safe on every file system, close to their keys, and never two alike.

A key may be any text: `../..`, `CON`, a kilobyte, two that differ in case alone. What such a file system as NTFS, APFS
or ext4 refuses, or takes for another name, is replaced, and a name that is not the key's own ends in a hash of the URI
(https://learn.microsoft.com/windows/win32/fileio/naming-a-file lists what Windows refuses).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

from sightflow.schemas.object_uri import URI_PATTERN

_REFUSED = re.compile(r'[\x00-\x1f\x7f<>:"\\|?*%\ufffd\ud800-\udfff]')
_PLAIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_ .+,;=@!()\[\]{}'&#$~^-]*[A-Za-z0-9_+)-])?")
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?", re.IGNORECASE)
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
_LONGEST_PART = 100  # bytes of UTF-8; ext4 and NTFS take 255, and formats add suffixes of their own
_LONGEST_NAME = 180  # below a folder of the user's, Windows takes 260 characters in all
_HASH_DIGITS = 12


def common_folder(first: str, last: str) -> str:
    """What all URIs between two, in order, begin with, up to a slash."""
    length = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first[:length].rfind("/") + 1]


class FileNames:
    """The names of one export's objects, in the order in which they are asked for.

    `root`: what every URI begins with and no name needs; empty, if they begin with nothing in common.
    `refused_folders`: of folders that the format takes for something else; they get an underscore. Holds three numbers
    for each name, and no text.
    """

    def __init__(self, root: str, refused_folders: re.Pattern[str] | None = None) -> None:
        self._root, self._refused_folders = root, refused_folders
        self._stems: set[int] = set()
        self._files: set[int] = set()
        self._folders: set[int] = set()

    def name(self, uri: str) -> str:
        """The file name of an object, with `/` between folders."""
        wanted = uri[len(self._root) :] if self._root else re.sub(URI_PATTERN, "", uri).lstrip("/")
        folder, slash, last = wanted.rpartition("/")
        if self._refused_folders is not None and folder:
            parts = [f"{part}_" if self._refused_folders.fullmatch(part) else part for part in folder.split("/")]
            folder = "/".join(parts)
            wanted = f"{folder}/{last}"
        name = f"{_safe_folder(folder) if slash else ''}{slash}{_safe_part(last)}"
        above = _keys_of_folders(name.rpartition("/")[0])
        flat = len(name.encode()) > _LONGEST_NAME or not self._files.isdisjoint(above)
        if flat:
            name = name.replace("/", "_")
        if flat or name != wanted or _key(_stem(name)) in self._stems or _key(name) in self._folders:
            name = _hashed(name, uri)
        self._stems.add(_key(_stem(name)))
        self._files.add(_key(name))
        self._folders.update(_keys_of_folders(name.rpartition("/")[0]))
        return name


@lru_cache(maxsize=1024)
def _keys_of_folders(folder: str) -> tuple[int, ...]:
    """Of a folder and those above it."""
    parts = folder.split("/") if folder else []
    return tuple(_key("/".join(parts[: count + 1])) for count in range(len(parts)))


@lru_cache(maxsize=1024)
def _safe_folder(folder: str) -> str:
    return "/".join(map(_safe_part, folder.split("/")))


def _stem(name: str) -> str:
    """A name without the suffix of its last part."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.rpartition('.')[0] or last}"


def _suffix(name: str) -> str:
    """The suffix of a name where it is plain, with its dot."""
    suffix = name[len(_stem(name)) :]
    return suffix if _SUFFIX.fullmatch(suffix) else ""


def _key(name: str) -> int:
    """Names that some file system takes for one have one key: those that differ in case or in composition."""
    if name.isascii():
        return hash(name.lower())
    return hash(unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold()))


def _safe_part(part: str) -> str:
    if _PLAIN.fullmatch(part) and len(part) <= _LONGEST_PART and not _DEVICES.fullmatch(part):
        return part
    safe = _REFUSED.sub("_", unicodedata.normalize("NFC", part))
    safe = "".join(c if c.isprintable() else "_" for c in safe)
    safe = re.sub(r"^[. ]+|[. ]+$", "_", safe) or "_"  # hidden files, `..`, and what Windows takes away
    return f"_{safe}" if _DEVICES.fullmatch(safe) else _cut(safe, _LONGEST_PART)


def _hashed(name: str, uri: str) -> str:
    """A name that is this URI's alone, with its suffix where that is plain."""
    suffix = _suffix(name)
    folder, slash, last = name[: len(name) - len(suffix)].rpartition("/")
    digest = hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    room = max(_LONGEST_NAME - len((folder + slash + suffix).encode()) - _HASH_DIGITS - 1, 1)
    return f"{folder}{slash}{_cut(last, min(room, _LONGEST_PART))}-{digest}{suffix}"


def _cut(text: str, most: int) -> str:
    """The beginning of a text, of at most so many bytes, its suffix kept."""
    if len(text.encode()) <= most:
        return text
    suffix = _suffix(text)
    return text.encode()[: most - len(suffix)].decode(errors="ignore").rstrip(". ") + suffix
