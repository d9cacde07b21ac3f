"""The table of runs: one row a run that changed the catalog, with its whole report."""

from __future__ import annotations

from typing import Annotated

import pandera.polars as pa
import polars as pl

from sightflow.schemas.tables.frames import polars_schema


class RunRow(pa.DataFrameModel):
    """What one run did, in columns that can be asked for; `report` is its `RunReport` as JSON.

    `catalog_version`: of `enrichments` after the run; null if nothing has ever been published.
    """

    run_id: str
    started_at: Annotated[pl.Datetime, "us", "UTC"]
    finished_at: Annotated[pl.Datetime, "us", "UTC"]
    objects: int = pa.Field(ge=0)
    planned: int = pa.Field(ge=0)
    published: int = pa.Field(ge=0)
    quarantined: int = pa.Field(ge=0)
    pruned: int = pa.Field(ge=0)
    cost_usd: float = pa.Field(ge=0)
    catalog_version: int = pa.Field(ge=0, nullable=True)
    report: str = pa.Field(str_length={"min_value": 1})

    class Config:
        strict = True


RUNS_SCHEMA = polars_schema(RunRow)
