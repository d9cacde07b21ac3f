"""The table of batches: what a vendor's batch API has been asked, a row a step of each batch."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import polars as pl

from sightflow.schemas.tables import deferred_pandera as pa
from sightflow.schemas.tables.frames import polars_schema


class BatchState(StrEnum):
    """How far a batch has come. It is written down before what it names is begun, so that a kill leaves no doubt."""

    RECORDED = "recorded"  # the vendor has been told nothing, and has its file at most
    CREATING = (
        "creating"  # its file is at the vendor, who is being told to begin, or has been: looked up before all else
    )
    SUBMITTED = "submitted"  # the vendor works on it
    COLLECTING = "collecting"  # its results are being published
    COLLECTED = "collected"  # they are published; its files are still at the vendor
    CLOSED = "closed"
    ABANDONED = "abandoned"  # the vendor was never told to begin; what it holds is asked again

    @property
    def is_under_way(self) -> bool:
        """Whether what it holds is not to be asked again."""
        return self in UNDER_WAY

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do about it."""
        return self in (BatchState.CLOSED, BatchState.ABANDONED)


UNDER_WAY = frozenset({BatchState.RECORDED, BatchState.CREATING, BatchState.SUBMITTED, BatchState.COLLECTING})

BATCH_ITEM = pl.Struct(
    {
        "custom_id": pl.String(),
        "uri": pl.String(),
        "enrichment": pl.String(),
        "object_version": pl.String(),
        "recipe": pl.String(),
        "bytes": pl.Int64(),
        "replaced": pl.Boolean(),
        "media_kind": pl.String(),
        "width": pl.Int64(),
        "height": pl.Int64(),
        "sha256": pl.String(),
        "duration": pl.Float64(),
        "frame_rate": pl.Float64(),
        "seen_width": pl.Int64(),
        "seen_height": pl.Int64(),
        "frames": pl.List(pl.Int64()),
        "seconds": pl.List(pl.Float64()),
        "window_start": pl.Float64(),
        "window_end": pl.Float64(),
        "overview": pl.Boolean(),
        "part": pl.Int64(),
        "parts": pl.Int64(),
        "most_usd": pl.Float64(),
    }
)


class BatchRow(pa.DataFrameModel):
    """One step of a batch; the row with the highest `step` says how it stands. Rows are only ever added.

    What a batch holds stands in its first row, which is committed before anything is sent.
    """

    batch_id: str = pa.Field(str_matches=r"^[0-9a-f]{32}$", description="the batch, ours; the vendor is told it too")
    step: int = pa.Field(ge=0, description="from 0, one more for each row of the batch")
    state: str = pa.Field(isin=[state.value for state in BatchState], description="how far it has come, e.g. submitted")
    reached_at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(description="when it came so far, UTC")
    recorded_at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(description="when it was recorded, UTC")
    owner: str = pa.Field(description="the process that took this step: machine, process id, start")
    run_id: str = pa.Field(description="the run that recorded it")
    system: str = pa.Field(description="the model that is asked, by its name in the spec")
    model_id: str = pa.Field(description="the model that is asked, by the vendor's id")
    vendor: str = pa.Field(description="who is asked")
    requests: int = pa.Field(ge=1, description="how many requests it holds")
    vendor_batch: str = pa.Field(nullable=True, description="the vendor's id of the batch; null before it has one")
    input_file: str = pa.Field(nullable=True, description="the vendor's id of the file of requests")
    result_files: Annotated[pl.List, pl.String()] = pa.Field(description="the vendor's ids of the files of results")
    message: str = pa.Field(nullable=True, description="what the vendor said, or why it was abandoned")
    enrichments: str = pa.Field(nullable=True, description="in its first row, what is asked, as JSON")
    items: Annotated[pl.List, BATCH_ITEM] = pa.Field(
        description="in its first row, each request by the custom_id of its result, and what its reply is read with"
    )

    class Config:
        strict = True
        unique = ["batch_id", "step"]


BATCHES_SCHEMA = polars_schema(BatchRow)
