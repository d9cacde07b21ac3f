"""Local files as objects: listed with a version, and read at the version that was planned."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

from sightflow.schemas.failure import Cause, Failure, Stage, StoreError
from sightflow.schemas.media import MediaFile

Found = TypeVar("Found")
Listed = tuple[str, str, int, datetime]
"""URI, version, bytes, and when it was changed."""


def walk(literal: str, exact: bool) -> Iterator[Listed]:
    """Yield every file whose path starts with `literal`, or is it if `exact`.

    Links to folders are not followed. Raises StoreError if a folder is not there or may not be listed.
    """
    path = Path(literal)
    if exact and path.is_file():
        yield _entry(str(path), path.stat())
        return
    folder = literal if literal.endswith("/") else str(path.parent)
    if not os.path.isdir(folder):
        raise StoreError(f"there is no folder {folder}; check `source`")
    pending = [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.is_file():
                        yield _entry(entry.path, entry.stat())
        except PermissionError as error:
            raise StoreError(f"{error.filename} cannot be listed: permission denied") from None


def stat_file(uri: str) -> Listed | None:
    """One file as `walk` would yield it, or None if it is not there."""
    path = uri.removeprefix("file://")
    try:
        return _entry(path, os.stat(path)) if os.path.isfile(path) else None
    except FileNotFoundError:
        return None


def write_file(uri: str, content: bytes) -> None:
    """Write a file whole: it appears under its name when all of it is on the disk."""
    path = Path(uri.removeprefix("file://"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


def read_file(uri: str, version: str, max_bytes: int) -> bytes | Failure:
    """The bytes of a file, or why they cannot be had; a file that changes meanwhile is `changed`."""
    return _at_version(uri, version, max_bytes, lambda stream: stream.read(max_bytes + 1))


def hash_file(uri: str, version: str, max_bytes: int) -> MediaFile | Failure:
    """The file where it lies, with its SHA-256, or why it cannot be had."""
    path = Path(uri.removeprefix("file://"))
    digest = _at_version(uri, version, max_bytes, lambda stream: hashlib.file_digest(stream, "sha256").hexdigest())
    return digest if isinstance(digest, Failure) else MediaFile(path, digest)


def too_large(size: int, max_bytes: int) -> Failure:
    """An object's failure for its bytes."""
    return Failure(Cause.TOO_LARGE, f"{size:,} bytes; the limit is {max_bytes:,}", Stage.FETCH)


def _at_version(uri: str, version: str, max_bytes: int, read: Callable[[BufferedReader], Found]) -> Found | Failure:
    """What `read` makes of a file that is the planned version before and after."""
    try:
        with open(uri.removeprefix("file://"), "rb") as stream:
            before = os.fstat(stream.fileno())
            if before.st_size > max_bytes:
                return too_large(before.st_size, max_bytes)
            found = read(stream)
            if {_version(before), _version(os.fstat(stream.fileno()))} != {version}:
                return Failure(Cause.CHANGED, "replaced since it was listed", Stage.FETCH)
            return found
    except FileNotFoundError:
        return Failure(Cause.CHANGED, "deleted since it was listed", Stage.FETCH)
    except OSError as error:
        return Failure(Cause.FETCH, f"{type(error).__name__}: {error.strerror}", Stage.FETCH)


def _entry(path: str, stat: os.stat_result) -> Listed:
    # A name that is not UTF-8 is listed in escaped form; reading it then fails with its cause, visibly.
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    return f"file://{name}", _version(stat), stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC)


def _version(stat: os.stat_result) -> str:
    return f"{stat.st_mtime_ns}-{stat.st_size}"
