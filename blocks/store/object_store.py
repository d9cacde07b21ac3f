"""Where media come from, whatever the kind of storage: one block in front of a backend for each scheme."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import polars as pl
from pydantic import ConfigDict, PrivateAttr

from sightflow.blocks.block_links import documentation
from sightflow.blocks.lazy_block import LazyBlock
from sightflow.blocks.store.backend import ObjectVersion, StorageBackend
from sightflow.blocks.store.inventory import ListedObject, concat, to_inventory
from sightflow.blocks.store.patterns import source_filter
from sightflow.blocks.store.refusals import RefusalWatch
from sightflow.blocks.store.settings import StoreFields
from sightflow.schemas.failure import Failure, StoreError
from sightflow.schemas.media import MediaFile
from sightflow.schemas.object_uri import AzureAccount, InvalidUriError, ObjectUri, Scheme, split_account, split_scheme
from sightflow.schemas.run.discovered import Skips
from sightflow.schemas.source_pattern import canonical_object, literal_prefix

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_HEADS_AT_ONCE = 10_000  # objects, each a waiting request
_STARTS_AT_ONCE = 1_000  # objects, each a waiting request and some kilobytes

_CLIENTS: Mapping[Scheme, tuple[str, str]] = {
    Scheme.S3: ("s3.client", "S3Client"),
    Scheme.GOOGLE: ("google.client", "GoogleClient"),
    Scheme.AZURE: ("azure.client", "AzureClient"),
}
_BACKENDS: Mapping[Scheme, tuple[str, str]] = {
    Scheme.HTTPS: ("web.backend", "WebBackend"),
    Scheme.HUB: ("web.hub", "HubBackend"),
    Scheme.FILE: ("local", "LocalBackend"),
}


class ObjectStore(LazyBlock, StoreFields):
    """S3 and compatible stores, Google Cloud Storage, Azure Blob Storage, and the local file system.

    Without keys of its own the block uses what each cloud's own command line would: environment, profile, role, login.
    Every method raises StoreError, with no key in it, if the storage cannot be reached or refuses us, or if a URI names
    none.
    """

    _block_type_name = "Sightflow object store"
    _block_type_slug = "sightflow-object-store"
    _block_schema_capabilities: ClassVar[list[str]] = ["object-store"]
    _documentation_url = documentation("spec.md")
    _code_example = """
        ```python
        from sightflow.blocks import ObjectStore

        store = ObjectStore.load("NAME")
        print(store.inventory(["s3://bucket/**/*.jpg"]))
        ```
    """
    model_config = ConfigDict(extra="forbid")

    _backends: dict[Scheme, StorageBackend] = PrivateAttr(default_factory=dict)
    _refusals: dict[Scheme, RefusalWatch] = PrivateAttr(default_factory=dict)

    @classmethod
    def reaching(cls, scheme: Scheme, endpoint_url: str | None, account: AzureAccount | None = None) -> ObjectStore:
        """A store with the keys of the environment, and the address at which one kind of storage is found."""
        prefix = {Scheme.AZURE: "azure_", Scheme.GOOGLE: "google_"}.get(scheme, "")
        usual = f"https://{account.name}.blob.{account.suffix}" if account else None
        settings = {f"{prefix}endpoint_url": endpoint_url or usual, "azure_account": account.name if account else None}
        return cls(**{name: value for name, value in settings.items() if value})

    # --- listing --------------------------------------------------------------------------------

    def inventory(
        self, patterns: Sequence[str], outside: str | None = None, skips: Skips | None = None
    ) -> pl.DataFrame:
        """List the objects that match any of the patterns, one row each, in the form of `Inventory`.

        A pattern is a URI with `*`, `?`, `[...]` within a path segment, `**` across them and `{a,b}`; one without is an
        object, or a folder and all below it. `outside`: a URI below which nothing is taken (the catalog's own files).
        What cannot be listed goes to `skips`, or where that is not given, into the log.
        Raises StoreError if a bucket cannot be listed.
        """
        found = Skips() if skips is None else skips
        by_scheme: dict[Scheme, list[str]] = {}
        for pattern in patterns:
            by_scheme.setdefault(_scheme_of_pattern(pattern), []).append(pattern)
        listed = concat(
            [
                self.backend(scheme).inventory(own, source_filter(own, outside), found)
                for scheme, own in by_scheme.items()
            ]
        )
        for each in found.summary if skips is None else ():
            logger.warning("%s", each.summary)
        return listed

    def list_prefix(self, prefix: str) -> list[str]:
        """The URIs of all objects that begin with `prefix`, taken literally; none if there are none."""
        backend, uri = self._locate(prefix)
        return backend.list_prefix(uri)

    def head_many(self, uris: Sequence[str], failed: dict[str, Failure] | None = None) -> pl.DataFrame:
        """The inventory of just these objects as they are now; one that is not there, or no longer, has no row.

        What cannot be looked up goes to `failed`, by URI. Raises StoreError if that is not given, if none of several
        objects can be looked up, if keys or settings are refused, or if there is no such bucket.
        """
        answers = self._look_up(uris)
        failures = {uri: answer for uri, answer in answers.items() if isinstance(answer, Failure)}
        if failures and (failed is None or len(failures) == len(answers) > 1):
            uri, failure = next(iter(failures.items()))
            raise StoreError(
                f"{len(failures):,} objects cannot be looked up; {uri}: {failure.message}; "
                "check the keys and the bucket's policy"
            )
        if failed is not None:
            failed.update(failures)
        return to_inventory(answer for answer in answers.values() if isinstance(answer, tuple))

    def gone(self, uris: Sequence[str], failed: dict[str, Failure]) -> list[str]:
        """Those of the objects of which the storage itself says, now, that they are not there.

        An answer that leaves a doubt goes to `failed`, by URI. Raises StoreError if keys or settings are refused, or if
        there is no such bucket.
        """
        answers = self._look_up(uris)
        failed.update((uri, answer) for uri, answer in answers.items() if isinstance(answer, Failure))
        return [uri for uri, answer in answers.items() if answer is None]

    def _look_up(self, uris: Sequence[str]) -> dict[str, ListedObject | Failure | None]:
        """What is answered about each object, in order, some thousands at a time."""
        once_each = iter(dict.fromkeys(uris))
        answers: dict[str, ListedObject | Failure | None] = {}
        while batch := list(islice(once_each, _HEADS_AT_ONCE)):
            answers.update(zip(batch, self._head_batch(batch), strict=True))
        return answers

    def _head_batch(self, uris: Sequence[str]) -> list[ListedObject | Failure | None]:
        return self._in_order(uris, lambda backend, own: backend.head_many([uris[place] for place in own]))

    # --- reading --------------------------------------------------------------------------------

    def read_many(self, wanted: Sequence[ObjectVersion], max_bytes: int) -> list[bytes | Failure]:
        """Read objects `(uri, object_version)` at once, in order: the bytes, or why they could not be had.

        An object that is gone or is no longer the planned version fails with cause `changed`; one past
        `max_bytes` with `too_large`, before its body is read; what still fails after retries with `fetch`.
        Raises StoreRefusal when the store refuses the credentials, or several objects in a row and no others.
        """

        def read(backend: StorageBackend, own: Sequence[ObjectVersion]) -> Sequence[bytes | Failure]:
            return backend.read_many(own, max_bytes)

        return self._read_in_order(wanted, read)

    def download_many(self, wanted: Sequence[ObjectVersion], folder: Path, max_bytes: int) -> list[MediaFile | Failure]:
        """As `read_many`, for objects that are too large to be held in memory: as files.

        An object of a bucket is written to a new file in `folder`; one that is a file already stays where it is.
        """

        def download(backend: StorageBackend, own: Sequence[ObjectVersion]) -> Sequence[MediaFile | Failure]:
            return backend.download_many(own, folder, max_bytes)

        return self._read_in_order(wanted, download)

    def _read_in_order(
        self,
        wanted: Sequence[ObjectVersion],
        read: Callable[[StorageBackend, Sequence[ObjectVersion]], Sequence[Result]],
    ) -> list[Result]:
        def read_and_watch(backend: StorageBackend, places: Sequence[int]) -> Sequence[Result]:
            own = [wanted[place] for place in places]
            results = read(backend, own)
            # To be read at most in part: it is past the limit, if it is given at all.
            watch = self._refusals.setdefault(split_scheme(own[0][0])[0], RefusalWatch())
            watch.check(own, results, lambda one: backend.read_many([one], max_bytes=0)[0])
            return results

        return self._in_order([uri for uri, _ in wanted], read_and_watch)

    def read_starts(self, uris: Sequence[str], length: int) -> Iterator[bytes | None]:
        """The first `length` bytes of each object, in order; None for one that could not be had, which reading tells.

        Raises StoreError when the store refuses the credentials.
        """
        remaining = iter(uris)
        while batch := list(islice(remaining, _STARTS_AT_ONCE)):
            yield from self._read_starts_of(batch, length)

    def _read_starts_of(self, uris: Sequence[str], length: int) -> list[bytes | None]:
        return self._in_order(uris, lambda backend, own: backend.read_starts([uris[place] for place in own], length))

    # --- small files of our own -----------------------------------------------------------------

    def read(self, uri: str) -> bytes | None:
        """The bytes of a small file, or None if it is not there."""
        backend, located = self._locate(uri)
        return backend.read(located)

    def write(self, uri: str, content: bytes) -> None:
        """Write a small file whole: a reader sees all of it or nothing."""
        backend, located = self._locate(uri)
        backend.write(located, content)

    def remove(self, uri: str) -> None:
        """Remove a file, if it is there."""
        backend, located = self._locate(uri)
        backend.remove(located)

    def check_writable(self, folder: str) -> None:
        """See that a Delta commit can be made in a folder. Raises StoreRefusal that says why not; leaves nothing."""
        backend, located = self._locate(folder)
        backend.check_writable(located)

    def check_room(self, folder: str, size: int) -> None:
        """See that so many bytes can be written into a folder, if the storage can tell. Raises StoreRefusal."""
        backend, located = self._locate(folder)
        backend.check_room(located, size)

    def makedirs(self, folder: str) -> None:
        """Make a folder and those above it, if they are not there and the storage has folders at all."""
        backend, located = self._locate(folder)
        backend.makedirs(located)

    # --- Delta tables ---------------------------------------------------------------------------

    def delta_table_uri(self, folder: str) -> str:
        """The folder of a Delta table as delta-rs takes it."""
        backend, located = self._locate(folder)
        return backend.delta_table_uri(located)

    def delta_options(self, folder: str) -> dict[str, str]:
        """The connection to a folder in the words of delta-rs; may hold secrets, never to be shown."""
        return self._locate(folder)[0].delta_options()

    def scan_delta(self, folder: str, table: Any) -> pl.LazyFrame:
        """The rows, lazily, of a Delta table that is open (`deltalake.DeltaTable`) and lies in a folder."""
        backend, located = self._locate(folder)
        return backend.scan_delta(located, table)

    def canonical_object(self, given: str) -> str:
        """The one URI of an object that a list or a message names. Raises ValueError for what is none of this store."""
        text, account = split_account(given)
        from sightflow.blocks.store.azure.account import find_account

        if account and account.name != find_account(self).name:
            raise ValueError(f"{given!r} is in another Azure account than the store's")
        return canonical_object(text)

    # --- connections ----------------------------------------------------------------------------

    def connect(self, patterns: Sequence[str]) -> None:
        """Open the connections that these patterns need now, which takes some tenths of a second and may look up a
        role's keys; no storage is asked for anything.
        """
        for scheme in {_scheme_of_pattern(pattern) for pattern in patterns}:
            self.backend(scheme).connect()

    def check(self, pattern: str) -> None:
        """Begin to list a source. Raises StoreError that says what is wrong."""
        self.backend(_scheme_of_pattern(pattern)).check(pattern)

    def redact(self, text: str) -> str:
        """What a storage said, without the keys it was sent: some repeat them when they refuse."""
        for backend in tuple(self._backends.values()):  # what no request was sent to cannot repeat a key
            text = backend.redact(text)
        return text

    def backend(self, scheme: Scheme) -> StorageBackend:
        """What reaches the storage of a scheme: one for the life of this store, with one pool of connections."""
        if scheme not in self._backends:
            self._backends.setdefault(scheme, _connected(scheme, self))
        return self._backends[scheme]

    def _locate(self, text: str) -> tuple[StorageBackend, ObjectUri]:
        with _store_errors():
            uri = ObjectUri.parse(text)
        return self.backend(uri.scheme), uri

    def _in_order(
        self, uris: Sequence[str], ask: Callable[[StorageBackend, Sequence[int]], Sequence[Result]]
    ) -> list[Result]:
        """What each backend answers about the places of its own URIs, in the order of all the URIs."""
        places: dict[Scheme, list[int]] = {}
        with _store_errors():
            for place, uri in enumerate(uris):
                places.setdefault(split_scheme(uri)[0], []).append(place)
        results: dict[int, Result] = {}
        for scheme, own in places.items():
            results.update(zip(own, ask(self.backend(scheme), own), strict=True))
        return [results[place] for place in range(len(uris))]

    # A connection belongs to its process and its settings: a copy, with other settings perhaps, opens its own.

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {
            **state,
            "__pydantic_private__": {**(state["__pydantic_private__"] or {}), "_backends": {}, "_refusals": {}},
        }

    def __copy__(self) -> ObjectStore:
        copied = super().__copy__()
        copied._backends, copied._refusals = {}, {}
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> ObjectStore:
        return self.__copy__()  # every setting is an immutable value


def _connected(scheme: Scheme, store: ObjectStore) -> StorageBackend:
    """What reaches the storage of a scheme; the libraries of the others are not loaded."""
    if scheme in _CLIENTS:
        from sightflow.blocks.store.buckets.backend import BucketBackend

        return BucketBackend(_class_of(*_CLIENTS[scheme])(store), store)
    backend: StorageBackend = _class_of(*_BACKENDS[scheme])(store)
    return backend


def _class_of(module: str, name: str) -> Any:
    return getattr(import_module(f"sightflow.blocks.store.{module}"), name)


def _scheme_of_pattern(pattern: str) -> Scheme:
    with _store_errors():
        return ObjectUri.parse(literal_prefix(pattern)).scheme


@contextmanager
def _store_errors() -> Iterator[None]:
    """Text that is no URI, as a StoreError."""
    try:
        yield
    except InvalidUriError as error:
        raise StoreError(str(error)) from None
