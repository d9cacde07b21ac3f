"""The batches of a catalog: what is recorded before it is sent, and each step that a batch takes after that.

A step is a row that is added by compare-and-swap: it is committed only as the very next version of a table in which the
batch stands where the one who takes the step believes it to stand. So of two processes that would both go on with a
batch one does, and what one has given up another does not begin.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import polars as pl
from pydantic import TypeAdapter

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.data_files import DataFiles
from sightflow.blocks.catalog.table_writes import append_next, append_rows
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import StoreError
from sightflow.schemas.redaction import redact
from sightflow.schemas.run.batch import Batch, BatchedRequest
from sightflow.schemas.run.owner import this_process
from sightflow.schemas.tables.batches import BATCHES_SCHEMA, UNDER_WAY, BatchRow, BatchState
from sightflow.schemas.tables.frames import storable, to_frame

_ENRICHMENTS = TypeAdapter(tuple[Enrichment, ...])
_CONTENT = ("enrichments", "items")
_LONGEST_MESSAGE = 1000  # characters; a vendor may say anything
_STANDING = [column for column in BATCHES_SCHEMA if column not in _CONTENT]


class BatchOvertaken(Exception):
    """Another process has gone on with a batch; what it holds is that one's to see to."""


class BatchLog:
    """Reads and writes the table `batches` of a catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    # --- reading --------------------------------------------------------------------------------

    def batches(self) -> list[Batch]:
        """Every batch as it stands, the oldest first. Raises StoreError."""
        try:
            return [_batch(row) for row in self._newest().iter_rows(named=True)]
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"the table batches of {self._catalog.uri} cannot be read: {error}; a newer version has written it, or "
                "it is damaged: sightflow catalog restore"
            ) from None

    def _newest(self) -> pl.DataFrame:
        steps = self._catalog.read(self._catalog.scan("batches").select(_STANDING)).sort("step")
        return steps.group_by("batch_id").last().sort("recorded_at", "batch_id")

    def under_way(self) -> pl.LazyFrame:
        """What is not to be asked again: uri, enrichment, object_version and recipe of each, once."""
        newest = self._newest()
        ids = newest.filter(pl.col("state").is_in([state.value for state in UNDER_WAY]))["batch_id"]
        requests = (
            self._catalog.scan("batches")
            .filter((pl.col("step") == 0) & pl.col("batch_id").is_in(ids.to_list()))
            .select(item=pl.col("items").explode())
        )
        fields = (
            pl.col("item").struct.field(name).alias(name) for name in ("uri", "enrichment", "object_version", "recipe")
        )
        return requests.select(*fields).unique()

    def enrichments(self, batch: Batch) -> tuple[Enrichment, ...]:
        """What a batch is about. Raises StoreError if the record cannot be read."""
        return self._read(batch, ["enrichments"])[1]

    def requests(self, batch: Batch) -> tuple[list[BatchedRequest], tuple[Enrichment, ...]]:
        """What a batch holds, and the enrichments that it is about. Raises StoreError if the record cannot be read."""
        return self._read(batch, _CONTENT)

    def _read(self, batch: Batch, columns: Sequence[str]) -> tuple[list[BatchedRequest], tuple[Enrichment, ...]]:
        files = self._catalog.files("batches")
        with self._catalog.reading():
            rows = _rows_of(files, batch.batch_id).filter(pl.col("step") == 0).select(columns).collect()
        try:
            (row,) = rows.iter_rows(named=True)
            enrichments = _ENRICHMENTS.validate_json(row["enrichments"])
            return [BatchedRequest(**item) for item in row.get("items", ())], enrichments
        except (ValueError, TypeError, RecursionError):
            raise StoreError(f"the record of the batch {batch.batch_id} in {self._catalog.uri} is damaged") from None

    # --- writing --------------------------------------------------------------------------------

    def record(self, requests: Sequence[BatchedRequest], enrichments: Sequence[Enrichment], **known: Any) -> Batch:
        """Write down what is going to be asked, before any of it is. Raises StoreError.

        `known`: `run_id`, `system`, `model_id` and `vendor`.
        """
        now = datetime.now(UTC)
        batch = Batch(uuid4().hex, 0, BatchState.RECORDED, now, now, this_process(), requests=len(requests), **known)
        said = json.dumps([each.model_dump(mode="json", exclude_defaults=True) for each in enrichments])
        row = BatchRow.validate(_row(batch, enrichments=said, items=[request.fields for request in requests]))
        self._catalog.commit(
            lambda: append_rows(self._catalog.open_or_create("batches"), row), int(row.estimated_size())
        )
        return batch

    def advance(self, batch: Batch, state: BatchState, **changes: Any) -> Batch:
        """Let a batch take its next step, with what else has `changed`; return it as it then stands.

        Raises BatchOvertaken if it no longer stands where `batch` says, StoreError if the commit fails for good.
        """
        after = replace(
            batch, step=batch.step + 1, state=state, reached_at=datetime.now(UTC), owner=this_process(), **changes
        )
        row = _row(after)

        def commit() -> None:
            files = self._catalog.files("batches")
            newest = (
                _rows_of(files, batch.batch_id)
                .select("step", "owner", "reached_at")
                .sort("step")
                .last()
                .collect()
                .row(0)
            )
            if newest == (after.step, after.owner, after.reached_at):
                return  # committed, and the answer was lost
            if newest[0] != batch.step:
                raise BatchOvertaken(f"the batch {batch.batch_id} is being seen to by {newest[1]}")
            append_next(files.table, row)

        self._catalog.commit(commit, int(row.estimated_size()))
        return after


def _rows_of(files: DataFiles, batch_id: str) -> pl.LazyFrame:
    """The rows of one batch, from the files within whose bounds it lies."""
    entries = pl.DataFrame(files.table.get_add_actions(flatten=True))
    bounds = pl.lit(True)
    if {"min.batch_id", "max.batch_id"} <= set(entries.columns):
        bounds = (pl.col("min.batch_id") <= batch_id) & (pl.col("max.batch_id") >= batch_id)
    paths = set(entries.filter(bounds.fill_null(True))["path"])
    held = [file for file in files.listed() if file.path in paths]
    if not held:
        return pl.LazyFrame(schema=BATCHES_SCHEMA)
    return files.between(held, "batch_id", batch_id, None).filter(pl.col("batch_id") == batch_id)


def _row(batch: Batch, **content: Any) -> pl.DataFrame:
    fields = vars(batch) | {
        "state": batch.state.value,
        "result_files": list(batch.result_files),
        "message": storable(batch.message and redact(batch.message)[:_LONGEST_MESSAGE]),
    }
    return to_frame(BatchRow, [fields | {"enrichments": None, "items": []} | content])


def _batch(row: dict[str, Any]) -> Batch:
    known = {name: row[name] for name in _STANDING}
    return Batch(**known | {"state": BatchState(row["state"]), "result_files": tuple(row["result_files"])})
