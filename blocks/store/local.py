"""Local files as objects: listed with a version, and read at the version that was planned."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import polars as pl

from sightflow.blocks.store.backend import ConcurrencyLimit, ObjectVersion, Refused, UriFilter, too_large
from sightflow.blocks.store.inventory import ListedObject, to_inventory
from sightflow.blocks.store.patterns import literal_prefix
from sightflow.schemas.failure import Cause, Failure, Stage, StoreError, StoreRefusal, is_about_this_machine
from sightflow.schemas.media import MediaFile
from sightflow.schemas.object_uri import ObjectUri

Result = TypeVar("Result")


_PROBE_BYTES = 1 << 16


class LocalSettings(Protocol):
    """What local files need of the settings of an `ObjectStore`."""

    concurrency: int


class LocalBackend:
    """`StorageBackend` for `file://`. Reading runs in threads, since files have no asynchronous reads."""

    def __init__(self, settings: LocalSettings) -> None:
        self._limit = ConcurrencyLimit(settings.concurrency)

    def connect(self) -> None:
        """Nothing is to be opened."""

    def check(self, pattern: str) -> None:
        next(_walk_pattern(pattern), None)

    def inventory(self, patterns: Sequence[str], include: UriFilter) -> pl.DataFrame:
        return to_inventory(listed for pattern in patterns for listed in _walk_pattern(pattern) if include(listed[0]))

    def list_prefix(self, prefix: ObjectUri) -> list[str]:
        literal = prefix.local_path
        if not os.path.isdir(os.path.dirname(literal)):
            return []
        return [uri for uri, *_ in _walk(literal, exact=False) if uri.startswith(str(prefix))]

    def head_many(self, uris: Sequence[str]) -> list[ListedObject | None]:
        return self._limit.map(lambda uri: asyncio.to_thread(_stat, uri), uris)

    def read_many(self, wanted: Sequence[ObjectVersion], max_bytes: int) -> list[bytes | Failure]:
        def read(stream: BufferedReader) -> bytes:
            return stream.read(max_bytes + 1)

        return self._limit.map(lambda one: asyncio.to_thread(_read_version, one, max_bytes, read), wanted)

    def download_many(self, wanted: Sequence[ObjectVersion], folder: Path, max_bytes: int) -> list[MediaFile | Failure]:
        """Each file stays where it is, and is only hashed."""

        def file(one: ObjectVersion) -> MediaFile | Failure:
            digest = _read_version(one, max_bytes, lambda stream: hashlib.file_digest(stream, "sha256").hexdigest())
            if isinstance(digest, Failure):
                return digest
            return MediaFile(Path(ObjectUri.parse(one[0]).local_path), digest)

        return self._limit.map(lambda one: asyncio.to_thread(file, one), wanted)

    def read_starts(self, uris: Sequence[str], length: int) -> list[bytes | None]:
        return self._limit.map(lambda uri: asyncio.to_thread(_read_start, uri, length), uris)

    def read(self, uri: ObjectUri) -> bytes | None:
        path = Path(uri.local_path)
        with _store_errors(uri, "read"):
            return path.read_bytes() if path.is_file() else None

    def write(self, uri: ObjectUri, content: bytes) -> None:
        """It appears under its name when all of it is on the disk."""
        path = Path(uri.local_path)
        with _store_errors(uri, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(file.name, path)

    def remove(self, uri: ObjectUri) -> None:
        with _store_errors(uri, "removed"):
            Path(uri.local_path).unlink(missing_ok=True)

    def check_writable(self, folder: ObjectUri) -> None:
        """Delta commits with a hard link, which fails if the file is there."""
        with _store_errors(folder, "written"), _temporary(folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
            linked = f"{file.name}-linked"
            os.link(file.name, linked)
            os.unlink(linked)

    def check_room(self, folder: ObjectUri, size: int) -> None:
        with _store_errors(folder, "written"), _temporary(folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(size, _PROBE_BYTES))
            elif shutil.disk_usage(file.name).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def makedirs(self, folder: ObjectUri) -> None:
        with _store_errors(folder, "made"):
            os.makedirs(folder.local_path, exist_ok=True)

    def delta_table_uri(self, folder: ObjectUri) -> str:
        # delta-rs takes a file:// URI for percent-encoded; a plain path is taken as it stands.
        return folder.local_path

    def delta_options(self) -> dict[str, str]:
        return {}

    def scan_delta(self, folder: ObjectUri, table: Any) -> pl.LazyFrame:
        # polars percent-encodes a local path and then does not find it. Its filters are not handed on: pyarrow has none
        # for the text of files that delta-rs' own merge has written.
        if quote(folder.local_path) != folder.local_path:
            return pl.scan_pyarrow_dataset(table.to_pyarrow_dataset(), allow_pyarrow_filter=False)
        return pl.scan_delta(table)

    def redact(self, text: str) -> str:
        return text


def _walk_pattern(pattern: str) -> Iterator[ListedObject]:
    literal = literal_prefix(pattern)
    return _walk(ObjectUri.parse(literal).local_path, exact=literal == pattern)


def _walk(literal: str, exact: bool) -> Iterator[ListedObject]:
    """Yield every file of the folder in which paths begin with `literal`, or the one file that it is if `exact`.

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
                    elif (listed := _listed(entry)) is not None:
                        yield listed
        except FileNotFoundError:
            continue  # a folder that was removed meanwhile
        except OSError as error:
            raise StoreError(f"{error.filename} cannot be listed: {(error.strerror or '').lower()}") from None


def _listed(entry: os.DirEntry[str]) -> ListedObject | None:
    """A file of a folder; None for what is none: a link to itself, or a file that was removed meanwhile."""
    try:
        return _entry(entry.path, entry.stat()) if entry.is_file() else None
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise


def _stat(uri: str) -> ListedObject | None:
    """One file as it would be listed, or None if it is not there."""
    path = ObjectUri.parse(uri).local_path
    try:
        return _entry(path, os.stat(path)) if os.path.isfile(path) else None
    except FileNotFoundError:
        return None


def _read_start(uri: str, length: int) -> bytes | None:
    try:
        with open(ObjectUri.parse(uri).local_path, "rb") as stream:
            return stream.read(length)
    except (OSError, ValueError):  # ValueError: a name that holds a null character
        return None


def _read_version(wanted: ObjectVersion, max_bytes: int, read: Callable[[BufferedReader], Result]) -> Result | Failure:
    """What `read` makes of a file that is the planned version before and after; else why it cannot be had."""
    uri, version = wanted
    try:
        with open(ObjectUri.parse(uri).local_path, "rb") as stream:
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
        if is_about_this_machine(error):
            raise StoreRefusal(f"{uri} cannot be read: {error.strerror}") from None
        kind = Refused if isinstance(error, PermissionError) else Failure
        return kind(Cause.FETCH, f"{type(error).__name__}: {error.strerror}", Stage.FETCH)


def _entry(path: str, stat: os.stat_result) -> ListedObject:
    # A name that is not UTF-8 is listed in escaped form; reading it then fails with its cause, visibly.
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    return f"file://{name}", _version(stat), stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC)


def _version(stat: os.stat_result) -> str:
    return f"{stat.st_mtime_ns}-{stat.st_size}"


@contextmanager
def _store_errors(uri: ObjectUri, done: str) -> Iterator[None]:
    """What the operating system says of a file, as a StoreError."""
    try:
        yield
    except OSError as error:
        # Rights and room do not come back by themselves; a mount may.
        refused = is_about_this_machine(error) or isinstance(error, PermissionError | NotADirectoryError)
        kind = StoreRefusal if refused else StoreError
        raise kind(f"{uri} cannot be {done}: {error.strerror or type(error).__name__}") from None


def _temporary(folder: ObjectUri) -> Any:
    """An open file, which is gone when it is closed, in a folder; in the one above where it is not there yet."""
    path = Path(folder.local_path)
    there = next(each for each in (path, *path.parents) if each.exists())
    return tempfile.NamedTemporaryFile(dir=there, prefix=".sightflow-probe-")
