"""The catalog: Delta Lake tables on plain storage. It is the result, and the only record of progress.

Under its URI lie three tables: `enrichments` (one row an enrichment of an object, partitioned by
capability), `quarantine` (what failed) and `runs` (one row a run).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

import polars as pl
from prefect.blocks.core import Block
from pydantic import ConfigDict, Field
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from sightflow.blocks.block_links import LOGO, documentation
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreError
from sightflow.schemas.object_uri import ObjectUri, split_scheme
from sightflow.schemas.spec import Upkeep
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from sightflow.schemas.tables.quarantine import QUARANTINE_SCHEMA
from sightflow.schemas.tables.runs import RUNS_SCHEMA

TableName = Literal["enrichments", "quarantine", "runs"]
TABLES: tuple[TableName, ...] = get_args(TableName)
T = TypeVar("T")

SCHEMAS: Mapping[TableName, Mapping[str, pl.DataType]] = {
    "enrichments": CATALOG_SCHEMA,
    "quarantine": QUARANTINE_SCHEMA,
    "runs": RUNS_SCHEMA,
}
_PARTITIONS: Mapping[str, list[str]] = {"enrichments": ["capability"]}
# Of two committers of one table the second gets a conflict, and merges again on what the first has written.
_COMMIT_ATTEMPTS = 60
_KEYS_PER_MERGE = 2000
_STORE_CODE = re.compile(r"<Code>(\w+)</Code>")


@dataclass(frozen=True)
class MergeResult:
    """What one commit did; `version` is None if there was nothing to write."""

    version: int | None
    inserted: int = 0
    updated: int = 0

    @property
    def written(self) -> int:
        return self.inserted + self.updated


class Catalog(Block):
    """The tables under one URI. A reader never sees half a commit or a key twice."""

    _block_type_name = "Sightflow catalog"
    _block_type_slug = "sightflow-catalog"
    _block_schema_capabilities: ClassVar[list[str]] = ["catalog"]
    _logo_url = LOGO
    _documentation_url = documentation("catalog.md")
    _code_example = """
        ```python
        from sightflow.blocks import Catalog

        catalog = Catalog.load("NAME")
        print(catalog.scan("enrichments").collect())
        ```
    """
    model_config = ConfigDict(extra="forbid")

    uri: str = Field(description="s3://bucket/folder or file:///folder.")
    store: ObjectStore = Field(default_factory=ObjectStore, description="How the URI is reached.")

    @classmethod
    def at(cls, place: str | Path, endpoint_url: str | None = None) -> Catalog:
        """The catalog at a URI or in a local folder, there or not, reached with the keys of the environment.

        `endpoint_url`: of an S3-compatible store. Raises InvalidUriError if the URI's scheme is not known.
        """
        scheme, path = split_scheme(str(place))
        uri = str(place) if scheme.has_buckets else str(ObjectUri.from_path(Path(path).expanduser().resolve()))
        return cls(uri=uri, store=ObjectStore(endpoint_url=endpoint_url))

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
            raise StoreError(f"the catalog {self.uri} cannot be read: {self._redacted(error)}") from None

    def scan(self, name: TableName, version: int | None = None) -> pl.LazyFrame:
        """A table's rows, lazily; empty, with the right columns, if the table does not exist yet."""
        table = self.table(name, version)
        if table is None:
            return pl.LazyFrame(schema=SCHEMAS[name])
        return self.store.scan_delta(self.table_uri(name), table)

    def read(self, rows: pl.LazyFrame) -> pl.DataFrame:
        """Collect what was made of `scan`, as a stream: in no order but one that is asked for.

        Raises StoreError, without the keys in it, if the storage fails.
        """
        try:
            return rows.collect(engine="streaming")
        except (OSError, pl.exceptions.ComputeError) as error:
            raise StoreError(f"the catalog {self.uri} cannot be read: {self._redacted(error)}") from None

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
        return self._merge("enrichments", rows, "t.fingerprint <> s.fingerprint")

    def quarantine(self, rows: pl.DataFrame) -> MergeResult:
        """Merge failed items; one that failed before for the same reason is written only if it is another attempt."""
        return self._merge("quarantine", rows, None)

    def _merge(self, name: TableName, rows: pl.DataFrame, replace_if: str | None) -> MergeResult:
        if rows.is_empty():
            return MergeResult(None)
        lowest, highest = sql_literal(str(rows["uri"].min())), sql_literal(str(rows["uri"].max()))
        names = ", ".join(sql_literal(name) for name in rows["enrichment"].unique().sort())
        # The bounds let delta-rs skip files by their statistics instead of reading the whole table. They are the key's
        # and not the partition's: a name that is asked for another capability replaces its rows all the same.
        bounds = f"t.uri BETWEEN {lowest} AND {highest} AND t.enrichment IN ({names})"
        predicate = f"t.uri = s.uri AND t.enrichment = s.enrichment AND {bounds}"

        def merge() -> MergeResult:
            table = self._open_or_create(name)
            before = table.version()
            metrics = (
                table.merge(rows, predicate=predicate, source_alias="s", target_alias="t")
                .when_matched_update_all(predicate=replace_if)
                .when_not_matched_insert_all()
                .execute()
            )
            version = table.version()
            return MergeResult(
                version if version != before else None,
                metrics["num_target_rows_inserted"],
                metrics["num_target_rows_updated"],
            )

        return self._commit(merge)

    def resolve(self, rows: pl.DataFrame) -> int:
        """Take rows out of the quarantine, by `uri`, `enrichment` and what else is given; return how many went."""
        return self._delete_keys("quarantine", rows)

    def prune(self, rows: pl.DataFrame) -> int:
        """Remove rows by `uri`, `enrichment` and `fingerprint`, if they are still these; return how many went."""
        return self._delete_keys("enrichments", rows)

    def _delete_keys(self, name: TableName, keys: pl.DataFrame) -> int:
        """Delete rows by key, as merges whose matches are deleted: bounded statements for any number of keys."""
        if keys.is_empty() or self.table(name) is None:
            return 0
        chunks = keys.unique().sort("uri").iter_slices(_KEYS_PER_MERGE)
        return sum(self._commit(partial(self._delete_chunk, name, chunk)) for chunk in chunks)

    def _delete_chunk(self, name: TableName, keys: pl.DataFrame) -> int:
        lowest, highest = sql_literal(keys["uri"][0]), sql_literal(keys["uri"][-1])
        same = " AND ".join(f"t.{column} = s.{column}" for column in keys.columns)
        merge = self._open_or_create(name).merge(
            keys, predicate=f"{same} AND t.uri BETWEEN {lowest} AND {highest}", source_alias="s", target_alias="t"
        )
        return int(merge.when_matched_delete().execute()["num_target_rows_deleted"])

    def record_run(self, row: pl.DataFrame) -> None:
        """Append one validated row to `runs`."""
        from deltalake import write_deltalake

        def append() -> None:
            write_deltalake(self._open_or_create("runs"), row.to_arrow(), mode="append")

        self._commit(append)

    def restore(self, version: int) -> int:
        """Make the catalog what it was at a version, as a new commit; return that commit's version."""
        if self.table("enrichments", version) is None:
            raise StoreError(f"there is no catalog at {self.uri}")

        def restore() -> int:
            table = self.table("enrichments")
            table.restore(version)
            return int(table.version())

        return self._commit(restore)

    def _open_or_create(self, name: TableName) -> Any:
        """The table, made empty if it does not exist."""
        from deltalake import DeltaTable, Schema

        if (table := self.table(name)) is not None:
            return table
        self.store.makedirs(self.uri)
        empty = pl.DataFrame(schema=SCHEMAS[name])
        return DeltaTable.create(
            **self._location(name),
            schema=Schema.from_arrow(empty.to_arrow().schema),
            mode="ignore",
            partition_by=_PARTITIONS.get(name),
            configuration=dict(retention_properties(Upkeep().keep_days)),
        )

    def _commit(self, commit: Callable[[], T]) -> T:
        """Run a commit again while another writer comes first. Raises StoreError for everything else."""
        from deltalake.exceptions import CommitFailedError

        retrying = Retrying(
            stop=stop_after_attempt(_COMMIT_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.05, max=2),
            retry=retry_if_exception_type(CommitFailedError),
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
        except (DeltaError, OSError) as error:
            raise StoreError(f"the catalog {self.uri} cannot be written: {self._redacted(error)}") from None

    def _redacted(self, error: Exception) -> str:
        return _first_line(self.store.redact(str(error)) or type(error).__name__)


def retention_properties(days: int) -> Mapping[str, str]:
    """The properties of a table that let its log tell for so long what was there, and when it was replaced."""
    return {f"delta.{what}RetentionDuration": f"interval {days} days" for what in ("log", "deletedFile")}


def sql_literal(text: str) -> str:
    """Text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _first_line(message: str) -> str:
    """The first line of an error, and the store's own code, which stands in a body further down."""
    first = message.splitlines()[0].removeprefix("Kernel error -> ").partition("<")[0][:300].rstrip()
    code = _STORE_CODE.search(message)
    return f"{first} ({code[1]})" if code else first
