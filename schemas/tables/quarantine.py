"""The quarantine: what failed, one row an enrichment of an object, with the cause and the raw reply."""

from __future__ import annotations

from typing import Annotated

import pandera.polars as pa
import polars as pl

from sightflow.schemas.capability import Capability
from sightflow.schemas.failure import Cause, Stage

QUARANTINE_SCHEMA: dict[str, pl.DataType] = {
    "uri": pl.String(),
    "enrichment": pl.String(),
    "capability": pl.String(),
    "fingerprint": pl.String(),
    "object_version": pl.String(),
    "recipe": pl.String(),
    "cause": pl.String(),
    "stage": pl.String(),
    "message": pl.String(),
    "attempts": pl.Int64(),
    "raw_reply": pl.String(),
    "system": pl.String(),
    "model_id": pl.String(),
    "route": pl.List(pl.String()),
    "cost_usd": pl.Float64(),
    "run_id": pl.String(),
    "failed_at": pl.Datetime("us", "UTC"),
}


class QuarantineRow(pa.DataFrameModel):
    """An item that failed. A permanent cause is not tried again until object, model or user change it.

    With the stage `notify` it is a message that is no notification: no object, no capability, its body as `raw_reply`.
    """

    uri: str
    enrichment: str
    capability: str = pa.Field(isin=[c.value for c in Capability], nullable=True)
    fingerprint: str
    object_version: str
    recipe: str
    cause: str = pa.Field(isin=[c.value for c in Cause])
    stage: str = pa.Field(isin=[s.value for s in Stage])
    message: str = pa.Field(str_length={"min_value": 1})
    attempts: int = pa.Field(ge=1)
    raw_reply: str = pa.Field(nullable=True)
    system: str
    model_id: str
    route: Annotated[pl.List, pl.String()]
    cost_usd: float = pa.Field(ge=0)
    run_id: str
    failed_at: Annotated[pl.Datetime, "us", "UTC"]

    class Config:
        strict = True
        unique = ["uri", "enrichment"]
