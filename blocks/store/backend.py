"""What every kind of storage can do, as one protocol: S3 and local files are two, another is one more file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import polars as pl

from sightflow.blocks.store.inventory import ListedObject
from sightflow.schemas.failure import Cause, Failure, Stage
from sightflow.schemas.media import MediaFile
from sightflow.schemas.object_uri import ObjectUri
from sightflow.schemas.run.discovered import Skips

if TYPE_CHECKING:
    import asyncio


@dataclass(frozen=True)
class Refused(Failure):
    """An object that the storage knows and will not give: by its own policy, or because it gives us nothing."""


DELTA_CASTS = pl.ScanCastOptions(  # as for any table of Delta: what other writers, and earlier ones, put into files
    integer_cast="upcast",
    float_cast=["upcast", "downcast"],
    datetime_cast=["nanosecond-downcast", "millisecond-upcast", "convert-timezone"],
    missing_struct_fields="insert",
    extra_struct_fields="ignore",
    categorical_to_string="allow",
)

Item = TypeVar("Item")
Result = TypeVar("Result")

ObjectVersion = tuple[str, str]
"""The URI of an object and the version that was planned; of a bucket an empty one means what is there now."""
UriFilter = Callable[[str], bool]
"""Whether a URI is wanted."""


class StorageBackend(Protocol):
    """One kind of storage, reached with the settings of an `ObjectStore`.

    It is given URIs of its own scheme only; many as text, one as an `ObjectUri`. Results stand in the order of what
    was asked. Each method raises StoreError, with no key in it, if the storage cannot be reached or refuses us.
    A backend may hold a connection: it is neither copied nor pickled with its store, but made anew.
    """

    def connect(self) -> None:
        """Open the connection now, which may take some tenths of a second; the storage itself is asked nothing."""

    def check(self, pattern: str) -> None:
        """Begin to list a pattern of a source, to see that it can be listed."""

    def inventory(self, patterns: Sequence[str], include: UriFilter, skips: Skips) -> pl.DataFrame:
        """List the objects below what the patterns begin with, those that `include` takes, as an `Inventory`.

        What cannot be listed goes to `skips`, and costs nothing else.
        """

    def list_prefix(self, prefix: ObjectUri) -> list[str]:
        """The URIs of all objects that begin with `prefix`, taken literally; none if there are none."""

    def head_many(self, uris: Sequence[str]) -> list[ListedObject | Failure | None]:
        """What a listing would say of each object, or why nobody can; None if the storage says that it is not there."""

    def read_many(self, wanted: Sequence[ObjectVersion], max_bytes: int) -> list[bytes | Failure]:
        """The bytes of each object at its version, or why they could not be had; see `ObjectStore.read_many`."""

    def download_many(self, wanted: Sequence[ObjectVersion], folder: Path, max_bytes: int) -> list[MediaFile | Failure]:
        """As `read_many`, as files: new ones in `folder`, or where an object is a local file already."""

    def read_part(self, one: ObjectVersion, start: int, length: int) -> bytes | Failure:
        """So many bytes of an object at its version from `start` on, all of which are there; see `read_many`."""

    def read_starts(self, uris: Sequence[str], length: int) -> list[bytes | None]:
        """The first `length` bytes of each object, or None for one that could not be had, whatever the reason."""

    def read(self, uri: ObjectUri) -> bytes | None:
        """The bytes of a small file, or None if it is not there."""

    def write(self, uri: ObjectUri, content: bytes) -> None:
        """Write a small file whole: a reader sees all of it or nothing."""

    def create(self, uri: ObjectUri, content: bytes) -> bool:
        """As `write`, for a file that must not be there; False if it is. Of several writers one is given True, but for
        one whose answer was lost: it may be given False by what it has written itself.
        """

    def remove(self, uri: ObjectUri) -> None:
        """Remove a file, if it is there."""

    def check_writable(self, folder: ObjectUri) -> None:
        """See that a Delta commit can be made in a folder, there or not, by a write of the same kind: one that fails if
        the file is there. Nothing of it is left. Raises StoreRefusal if it cannot be.
        """

    def check_room(self, folder: ObjectUri, size: int) -> None:
        """See that so many bytes can be written into a folder, where that can be told without writing them."""

    def makedirs(self, folder: ObjectUri) -> None:
        """Make a folder, where a storage has folders that must be there before something is written into them."""

    def delta_table_uri(self, folder: ObjectUri) -> str:
        """The folder of a Delta table as delta-rs takes it."""

    def delta_options(self) -> dict[str, str]:
        """The connection in the words of delta-rs (object_store crate); may hold secrets, never to be shown."""

    def scan_delta(self, folder: ObjectUri, table: Any) -> pl.LazyFrame:
        """The rows, lazily, of a Delta table that is open (`deltalake.DeltaTable`) and lies in a folder."""

    def redact(self, text: str) -> str:
        """Text without the keys that this storage is sent."""


class ConcurrencyLimit:
    """Does something to many objects at once, on the event loop of fsspec: at most `limit` over all calls together."""

    def __init__(self, limit: int) -> None:
        self._most = limit

    @cached_property
    def semaphore(self) -> asyncio.Semaphore:
        """What holds the calls back that are on that loop, where it is first asked for."""
        import asyncio  # with the library of TLS, which a plan of local files can do without

        return asyncio.Semaphore(self._most)

    def map(self, call: Callable[[Item], Awaitable[Result]], items: Sequence[Item]) -> list[Result]:
        """What `call` makes of each item, in order. Raises what it raises first."""
        import asyncio

        from fsspec.asyn import get_loop, sync

        async def one(item: Item) -> Result:
            async with self.semaphore:
                return await call(item)

        async def gather() -> list[Result]:
            return await asyncio.gather(*(one(item) for item in items))

        return sync(get_loop(), gather)  # type: ignore[no-any-return]

    def map_in_threads(self, call: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """As `map`, of a call that waits."""
        import asyncio

        return self.map(lambda item: asyncio.to_thread(call, item), items)


def too_large(size: int, max_bytes: int) -> Failure:
    """The failure of an object for its bytes."""
    return Failure(Cause.TOO_LARGE, f"{size:,} bytes; the limit is {max_bytes:,}", Stage.FETCH)
