"""Local files as objects: listed with a version, and read at the version that was planned."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BufferedReader
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import polars as pl

from sightflow.blocks.store.backend import (
    DELTA_CASTS,
    ConcurrencyLimit,
    ObjectVersion,
    Refused,
    UriFilter,
    too_large,
)
from sightflow.blocks.store.inventory import ListedObject, to_inventory
from sightflow.schemas.failure import Cause, Failure, Stage, StoreError, StoreRefusal, is_about_this_machine
from sightflow.schemas.media import MediaFile
from sightflow.schemas.object_uri import ObjectUri
from sightflow.schemas.run.discovered import Skips
from sightflow.schemas.source_pattern import alternatives, is_literal, literal_prefix

Result = TypeVar("Result")

_PROBE_BYTES = 1 << 16
_FEW_FILES = 1000


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
        roots = _roots([pattern])
        if not any(map(os.path.exists, roots)):
            raise StoreError(f"there is no folder {roots[0].rstrip('/')}; check `source`")
        for root in filter(os.path.isdir, roots):
            with _store_errors(ObjectUri.from_path(root), "listed"):
                os.scandir(root).close()

    def inventory(self, patterns: Sequence[str], include: UriFilter, skips: Skips) -> pl.DataFrame:
        found = (listed for root in _roots(patterns) for listed in _walk(root, skips))
        return to_inventory(listed for listed in found if include(listed[0]))

    def list_prefix(self, prefix: ObjectUri) -> list[str]:
        folder = os.path.dirname(prefix.local_path)
        if not os.path.isdir(folder):
            return []
        skips = Skips()
        found = [uri for uri, *_ in _walk(folder, skips) if uri.startswith(str(prefix))]
        if not skips.complete or any(place.startswith(str(prefix)) for place in skips.unlisted):
            raise StoreError(f"{prefix} cannot be listed: {skips.summary[0].summary}")
        return found

    def head_many(self, uris: Sequence[str]) -> list[ListedObject | Failure | None]:
        return self._limit.map_in_threads(_stat, uris)

    def read_many(self, wanted: Sequence[ObjectVersion], max_bytes: int) -> list[bytes | Failure]:
        def read(stream: BufferedReader) -> bytes:
            return stream.read(max_bytes + 1)

        return self._limit.map_in_threads(lambda one: _read_version(one, max_bytes, read), wanted)

    def read_part(self, one: ObjectVersion, start: int, length: int) -> bytes | Failure:
        def read(stream: BufferedReader) -> bytes:
            stream.seek(start)
            return stream.read(length)

        return _read_version(one, sys.maxsize, read)

    def download_many(self, wanted: Sequence[ObjectVersion], folder: Path, max_bytes: int) -> list[MediaFile | Failure]:
        """Each file stays where it is, and is only hashed."""

        def file(one: ObjectVersion) -> MediaFile | Failure:
            digest = _read_version(one, max_bytes, lambda stream: hashlib.file_digest(stream, "sha256").hexdigest())
            if isinstance(digest, Failure):
                return digest
            return MediaFile(Path(ObjectUri.parse(one[0]).local_path), digest)

        return self._limit.map_in_threads(file, wanted)

    def read_starts(self, uris: Sequence[str], length: int) -> list[bytes | None]:
        return self._limit.map_in_threads(lambda uri: _read_start(uri, length), uris)

    def read(self, uri: ObjectUri) -> bytes | None:
        path = Path(uri.local_path)
        with _store_errors(uri, "read"):
            return path.read_bytes() if path.is_file() else None

    def write(self, uri: ObjectUri, content: bytes) -> None:
        """It appears under its name when all of it is on the disk."""
        with _store_errors(uri, "written"):
            os.replace(_written_beside(uri, content), uri.local_path)

    def create(self, uri: ObjectUri, content: bytes) -> bool:
        with _store_errors(uri, "written"):
            written = _written_beside(uri, content)
            try:
                os.link(written, uri.local_path)  # fails if the name is taken, and gives it to a whole file
            except FileExistsError:
                return False
            finally:
                os.unlink(written)
        return True

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
        files = table.file_uris()
        if len(files) > _FEW_FILES or table.protocol().min_reader_version > 1:
            return pl.scan_delta(table)
        return _scan_files(files, pl.Schema(table.schema()), table.metadata().partition_columns)

    def redact(self, text: str) -> str:
        return text


def _scan_files(files: list[str], schema: pl.Schema, partitions: Sequence[str]) -> pl.LazyFrame:
    """The rows of the files of a table without special features, as `polars.scan_delta` gives them; it loads pyarrow
    first, which takes as long as to look into a thousand files, and passes over those that the log rules out.
    """
    if not files:
        return pl.LazyFrame(schema=schema)
    rows = pl.scan_parquet(
        files,
        glob=False,
        schema={name: kind for name, kind in schema.items() if name not in partitions},
        hive_partitioning=bool(partitions),
        hive_schema={name: schema[name] for name in partitions} or None,
        missing_columns="insert",
        extra_columns="ignore",
        cast_options=DELTA_CASTS,
    )
    return rows.select(schema.names())


def _roots(patterns: Sequence[str]) -> list[str]:
    """The folders and files that hold all that local patterns match, none below another."""
    places = set[str]()
    for pattern in chain.from_iterable(map(alternatives, patterns)):
        path = ObjectUri.parse(literal_prefix(pattern)).local_path
        places.add(path if is_literal(pattern) and not path.endswith("/") else os.path.dirname(path))
    return sorted(
        place for place in places if not any(place != each and f"{place}/".startswith(_below(each)) for each in places)
    )


def _below(folder: str) -> str:
    return folder if folder.endswith("/") else f"{folder}/"


def _walk(root: str, skips: Skips) -> Iterator[ListedObject]:
    """Yield every file of a folder and those below it, or the one file that it is.

    Links to folders are not followed. What cannot be listed goes to `skips`.
    """
    try:
        stat = os.stat(root)
    except OSError as error:
        skips.add(_uri(root), _cannot("be listed", error))
        return
    if S_ISREG(stat.st_mode):
        yield _entry(root, stat)
        return
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif (listed := _listed(entry, skips)) is not None:
                        yield listed
        except FileNotFoundError:
            continue  # a folder that was removed meanwhile
        except OSError as error:
            skips.add(_uri(folder), _cannot("be listed", error))


def _listed(entry: os.DirEntry[str], skips: Skips) -> ListedObject | None:
    """A file of a folder; None for what is none, or was removed meanwhile. What may be one goes to `skips`."""
    try:
        if entry.is_file():
            return _entry(entry.path, entry.stat())
        if entry.is_symlink():
            known = entry.is_dir()
            skips.add(_uri(entry.path), "a link to a folder is not followed" if known else "a link leads nowhere")
    except FileNotFoundError:
        return None
    except OSError as error:
        skips.add(_uri(entry.path), _cannot("be looked at", error))
    return None


def _stat(uri: str) -> ListedObject | Failure | None:
    """One file as it would be listed, None if it is not there, or why nobody can say."""
    path = ObjectUri.parse(uri).local_path
    try:
        stat = os.stat(path)
        return _entry(path, stat) if S_ISREG(stat.st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        return Failure(Cause.FETCH, "it is a link that leads nowhere", Stage.FETCH) if os.path.islink(path) else None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        return Failure(Cause.FETCH, _cannot("be looked up", error), Stage.FETCH)


def _cannot(be_done: str, error: OSError | ValueError) -> str:
    said = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
    return f"it cannot {be_done}: {said.lower()}"


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
    try:
        modified = datetime.fromtimestamp(stat.st_mtime, UTC)
    except (ValueError, OverflowError, OSError):  # before the year 1 or after 9999
        modified = None
    return _uri(path), _version(stat), stat.st_size, modified


def _uri(path: str) -> str:
    # A name that is not UTF-8 is listed in escaped form; reading it then fails with its cause, visibly.
    return f"file://{os.fsencode(path).decode('utf-8', 'backslashreplace')}"


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


def _written_beside(uri: ObjectUri, content: bytes) -> Path:
    """A new file of this content, on the disk, in the folder of a URI."""
    path = Path(uri.local_path).parent / f".{secrets.token_hex(8)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return path


def _temporary(folder: ObjectUri) -> Any:
    """An open file, which is gone when it is closed, in a folder; in the one above where it is not there yet."""
    path = Path(folder.local_path)
    there = next(each for each in (path, *path.parents) if each.exists())
    return tempfile.NamedTemporaryFile(dir=there, prefix=".sightflow-probe-")
