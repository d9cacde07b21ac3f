"""The table of runs: one row a run that changed the catalog, with its whole report."""

from __future__ import annotations

from typing import Annotated

import polars as pl

from sightflow.schemas.tables import deferred_pandera as pa
from sightflow.schemas.tables.frames import polars_schema


class RunRow(pa.DataFrameModel):
    """What one run did, in columns that can be asked for; `report` is its `RunReport` as JSON.

    `catalog_version`: of `enrichments` after the run; null if nothing has ever been published.
    """

    run_id: str = pa.Field(description="the run, as in the rows that it published")
    started_at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(description="UTC")
    finished_at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(description="UTC")
    objects: int = pa.Field(ge=0, description="objects listed")
    planned: int = pa.Field(ge=0, description="enrichments that were new, changed or stale")
    published: int = pa.Field(ge=0, description="rows published")
    quarantined: int = pa.Field(ge=0, description="items that failed")
    pruned: int = pa.Field(ge=0, description="rows removed because their object is gone")
    cost_usd: float = pa.Field(ge=0, description="US dollars by the price list")
    catalog_version: int = pa.Field(
        ge=0, nullable=True, description="of enrichments after the run; null if nothing has ever been published"
    )
    report: str = pa.Field(str_length={"min_value": 1}, description="the whole RunReport as JSON")

    class Config:
        strict = True


RUNS_SCHEMA = polars_schema(RunRow)
