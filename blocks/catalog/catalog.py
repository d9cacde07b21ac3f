"""The catalog: Delta Lake tables on plain storage. It is the result, and the only record of progress.

Under its URI lie `enrichments` (one row an enrichment of an object, partitioned by capability), `quarantine` (what
failed), `runs` (one row a run), `batches` (what batch APIs have been asked), and `labels` (what a person says is right)
with `label_history`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

import polars as pl
from pydantic import ConfigDict, Field

from sightflow.blocks.block_links import documentation
from sightflow.blocks.catalog.data_files import KEY, DataFiles
from sightflow.blocks.catalog.rewrite import Rewrite, replace
from sightflow.blocks.catalog.storage_errors import DAMAGED_LOG, REFUSAL, first_line
from sightflow.blocks.catalog.table_writes import append_rows, delta_schema, later_columns
from sightflow.blocks.lazy_block import LazyBlock
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreError, StoreRefusal
from sightflow.schemas.object_uri import ObjectUri, split_account, split_scheme
from sightflow.schemas.policy import Upkeep
from sightflow.schemas.tables.batches import BatchRow
from sightflow.schemas.tables.catalog import CatalogRow
from sightflow.schemas.tables.deferred_pandera import DataFrameModel
from sightflow.schemas.tables.frames import polars_schema
from sightflow.schemas.tables.labels import LabelHistoryRow, LabelRow
from sightflow.schemas.tables.quarantine import QuarantineRow
from sightflow.schemas.tables.runs import RunRow

TableName = Literal["enrichments", "quarantine", "runs", "batches", "labels", "label_history"]
TABLES: tuple[TableName, ...] = get_args(TableName)
T = TypeVar("T")

MODELS: Mapping[TableName, type[DataFrameModel]] = {
    "enrichments": CatalogRow,
    "quarantine": QuarantineRow,
    "runs": RunRow,
    "batches": BatchRow,
    "labels": LabelRow,
    "label_history": LabelHistoryRow,
}
SCHEMAS = {name: polars_schema(model) for name, model in MODELS.items()}
_PARTITIONS: Mapping[str, list[str]] = {"enrichments": ["capability"]}
# Of two committers of one table the second gets a conflict, and merges again on what the first has written.
_COMMIT_ATTEMPTS = 60
_ROOM = 1 << 16  # bytes, beside the rows themselves, of a commit


@dataclass(frozen=True)
class MergeResult:
    """What one commit did; `version` is None if there was nothing to write."""

    version: int | None
    inserted: int = 0
    updated: int = 0

    @property
    def written(self) -> int:
        return self.inserted + self.updated


class Catalog(LazyBlock):
    """The tables under one URI. A reader never sees half a commit or a key twice."""

    _block_type_name = "Sightflow catalog"
    _block_type_slug = "sightflow-catalog"
    _block_schema_capabilities: ClassVar[list[str]] = ["catalog"]
    _documentation_url = documentation("catalog.md")
    _code_example = """
        ```python
        from sightflow.blocks import Catalog

        catalog = Catalog.load("NAME")
        print(catalog.scan("enrichments").collect())
        ```
    """
    model_config = ConfigDict(extra="forbid")

    uri: str = Field(description="s3://bucket/folder, gs://, az:// or file:///folder.")
    store: ObjectStore = Field(default_factory=ObjectStore, description="How the URI is reached.")

    @classmethod
    def at(cls, place: str | Path, endpoint_url: str | None = None) -> Catalog:
        """The catalog at a URI or in a local folder, there or not, reached with the keys of the environment.

        `endpoint_url`: of the store that the URI speaks of. Raises InvalidUriError if its scheme is not known.
        """
        text, account = split_account(str(place))
        scheme, path = split_scheme(text)
        uri = text if scheme.has_buckets else str(ObjectUri.from_path(Path(path).expanduser().resolve()))
        return cls(uri=uri, store=ObjectStore.reaching(scheme, endpoint_url, account))

    def table_uri(self, name: TableName) -> str:
        """Where one table lies."""
        return f"{self.uri.rstrip('/')}/{name}"

    def _location(self, name: TableName) -> dict[str, Any]:
        """Where one table lies and how that is reached, as deltalake takes it."""
        uri = self.table_uri(name)
        return {"table_uri": self.store.delta_table_uri(uri), "storage_options": self.store.delta_options(uri)}

    def table(self, name: TableName, version: int | None = None) -> Any:
        """The Delta table (`deltalake.DeltaTable`) as it is now or at a version; None if it does not exist.

        Raises StoreError if the storage cannot be reached or there is no such version.
        """
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            return DeltaTable(**self._location(name), version=version)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            if version is not None and isinstance(error, DeltaError):
                raise StoreError(f"{self.uri} has no version {version}; see: sightflow catalog history") from None
            if isinstance(error, DeltaError) and DAMAGED_LOG.search(str(error)):
                raise self._damaged(name, error) from None
            raise self._store_error(error, "read") from None

    def _damaged(self, name: TableName, error: BaseException) -> StoreError:
        said = first_line(self.store.redact(str(error)))
        return StoreError(
            f"the log of the catalog's table {name} is damaged: {said}. Bring back what is missing or broken "
            f"in {self.table_uri(name)}/_delta_log from a backup or the earlier versions of the bucket; if only the "
            f"checkpoint is broken and every commit since 0 is there, removing it and _last_checkpoint is enough"
        )

    def scan(self, name: TableName, version: int | None = None) -> pl.LazyFrame:
        """A table's rows, lazily; empty, with the right columns, if the table does not exist yet."""
        return self.scan_with_version(name, version)[0]

    def scan_with_version(self, name: TableName, version: int | None = None) -> tuple[pl.LazyFrame, int | None]:
        """As `scan`, and which version it is: None if the table does not exist yet."""
        table = self.table(name, version)
        if table is None:
            return pl.LazyFrame(schema=SCHEMAS[name]), None
        rows = self.store.scan_delta(self.table_uri(name), table)
        fields = table.schema().fields
        if later := later_columns(SCHEMAS[name], fields):
            # A table of an earlier version of this program, which has not been written since.
            there = {field.name for field in fields}
            rows = rows.with_columns(
                (pl.col(column) if column in there else pl.lit(None)).cast(kind).alias(column)
                for column, kind in later.items()
            )
        return rows, table.version()

    def read(self, rows: pl.LazyFrame) -> pl.DataFrame:
        """Collect what was made of `scan`, as a stream: in no order but one that is asked for.

        Raises StoreError, without the keys in it, if the storage fails.
        """
        with self.reading():
            return rows.collect(engine="streaming")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what the storage says of files that are read within this block into a StoreError, without keys in it."""
        try:
            yield
        except (OSError, pl.exceptions.ComputeError) as error:
            raise self._store_error(error, "read") from None

    def version(self, name: TableName = "enrichments") -> int | None:
        """The number of the newest commit, or None before the first."""
        table = self.table(name)
        return None if table is None else table.version()

    # --- writing --------------------------------------------------------------------------------

    def publish(self, rows: pl.DataFrame) -> MergeResult:
        """Merge validated rows: new keys are added, known keys replaced if their fingerprint differs.

        A merge and not an append, so that two runs at once and a run repeated end in the same rows. Nothing is
        committed if nothing differs. Raises StoreError if the commit fails for good.
        """
        return self._merge("enrichments", rows, keep_same=True)

    def quarantine(self, rows: pl.DataFrame) -> MergeResult:
        """Merge failed items; one that failed before for the same reason is written only if it is another attempt."""
        return self._merge("quarantine", rows, keep_same=False)

    def _merge(self, name: TableName, rows: pl.DataFrame, keep_same: bool) -> MergeResult:
        """Write rows in the place of those with their keys; `keep_same`: but for those of the same fingerprint."""
        if rows.is_empty():
            return MergeResult(None)

        def prepare(files: DataFiles) -> Rewrite:
            found, held = files.find(rows, ["fingerprint"])
            known = found.unique(KEY, keep="first").select(*KEY, known=pl.lit(True), fingerprint_held="fingerprint")
            ours = rows.join(known, on=KEY, how="left", maintain_order="left")
            if keep_same:
                ours = ours.filter(
                    pl.col("fingerprint").ne_missing(pl.col("fingerprint_held")) | pl.col("known").is_null()
                )
            replaced = found.join(ours, on=KEY, how="semi", maintain_order="left")
            updated = ours["known"].count()
            self.store.check_room(self.uri, sum(held[path].size for path in replaced["path"].unique()))
            return replace(
                files,
                replaced,
                held,
                ours.select(rows.columns),
                {"inserted": ours.height - updated, "updated": updated},
            )

        done = self.rewrite(name, prepare, int(rows.estimated_size()))
        return MergeResult(done.version, done.counts["inserted"], done.counts["updated"])

    def resolve(self, rows: pl.DataFrame) -> int:
        """Take rows out of the quarantine, by `uri`, `enrichment` and what else is given; return how many went."""
        return self._delete_keys("quarantine", rows)

    def prune(self, rows: pl.DataFrame) -> int:
        """Remove rows by `uri`, `enrichment` and `fingerprint`, if they are still these; return how many went."""
        return self._delete_keys("enrichments", rows)

    def _delete_keys(self, name: TableName, keys: pl.DataFrame) -> int:
        if keys.is_empty() or self.table(name) is None:
            return 0

        def prepare(files: DataFiles) -> Rewrite:
            found, held = files.find(keys, keys.columns)
            gone = found.join(keys, on=keys.columns, how="semi", maintain_order="left")
            self.store.check_room(self.uri, sum(held[path].size for path in gone["path"].unique()))
            return replace(files, gone, held, pl.DataFrame(schema=SCHEMAS[name]), {"deleted": gone.height})

        return self.rewrite(name, prepare).counts["deleted"]

    def rewrite(self, name: TableName, prepare: Callable[[DataFiles], Rewrite], size: int = 0) -> Rewrite:
        """Commit what `prepare` writes for the table as it is; it writes again if others have changed the same."""
        rewrite: Rewrite | None = None

        def commit() -> Rewrite:
            nonlocal rewrite
            files = self.files(name)
            if rewrite is None or not rewrite.still_stands(files):
                rewrite = prepare(files)
            rewrite.commit(files)
            return rewrite

        return self.commit(commit, size)

    def record_run(self, row: pl.DataFrame) -> None:
        """Append one validated row to `runs`."""
        self.commit(lambda: append_rows(self.open_or_create("runs"), row), int(row.estimated_size()))

    def restore(self, version: int) -> int:
        """Make the catalog what it was at a version, as a new commit; return that commit's version."""
        if self.table("enrichments", version) is None:
            raise StoreError(f"there is no catalog at {self.uri}")

        def restore() -> int:
            table = self.table("enrichments")
            table.restore(version)
            return int(table.version())

        return self.commit(restore)

    def files(self, name: TableName) -> DataFiles:
        """The files of a table as it is now; it is made if it does not exist."""
        return DataFiles(self.open_or_create(name), self.store, self.table_uri(name))

    def open_or_create(self, name: TableName) -> Any:
        """The table, made empty if it does not exist, with what its columns mean.

        One that an earlier version of this program has made gets the columns, and the fields within columns, that have
        come since; they are null in its rows.
        """
        from deltalake import DeltaTable

        if (table := self.table(name)) is not None:
            if later := later_columns(SCHEMAS[name], table.schema().fields):
                table.alter.add_columns([field for field in delta_schema(MODELS[name]).fields if field.name in later])
            return table
        self.store.makedirs(self.uri)
        return DeltaTable.create(
            **self._location(name),
            schema=delta_schema(MODELS[name]),
            description=inspect.cleandoc(MODELS[name].__doc__ or "").partition("\n\n")[0],
            mode="ignore",
            partition_by=_PARTITIONS.get(name),
            configuration=dict(retention_properties(Upkeep().keep_days)),
        )

    def check_writable(self) -> None:
        """See that a commit can be made, before anything is spent on what is to be committed; nothing is left behind.

        Raises StoreRefusal that says why not: no rights, no room, no bucket, or a store without conditional writes.
        """
        there = self.table("enrichments") is not None
        self.store.check_writable(f"{self.table_uri('enrichments')}/_delta_log" if there else self.uri)

    def commit(self, commit: Callable[[], T], size: int = 0) -> T:
        """Run a commit of about so many bytes again while another writer comes first. Raises StoreError for everything
        else. That there is room is seen before: where a disk fills up under it, delta-rs panics on the screen.
        """
        from deltalake.exceptions import CommitFailedError
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

        def came_second(error: BaseException) -> bool:
            return isinstance(error, CommitFailedError) and not REFUSAL.search(str(error))

        self.store.check_room(self.uri, size + _ROOM)
        retrying = Retrying(
            stop=stop_after_attempt(_COMMIT_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.05, max=2),
            retry=retry_if_exception(came_second),
            reraise=True,
        )
        with self.writing():
            return retrying(commit)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what the storage or delta-rs says of a commit within this block into a StoreError."""
        from deltalake.exceptions import DeltaError

        try:
            yield
        except BaseException as error:  # a panic of Rust is no Exception, and has no class that could be imported
            if (
                not isinstance(error, DeltaError | OSError | pl.exceptions.ComputeError)
                and type(error).__name__ != "PanicException"
            ):
                raise
            raise self._store_error(error, "written") from None

    def _store_error(self, error: BaseException, attempted: str) -> StoreError:
        """What the storage, delta-rs or polars says, on one line and without keys."""
        kind = StoreRefusal if REFUSAL.search(str(error)) else StoreError
        said = first_line(self.store.redact(str(error)) or type(error).__name__)
        return kind(f"the catalog {self.uri} cannot be {attempted}: {said}")


def retention_properties(days: int) -> Mapping[str, str]:
    """The properties of a table that let its log tell for so long what was there, and when it was replaced."""
    return {f"delta.{what}RetentionDuration": f"interval {days} days" for what in ("log", "deletedFile")}
