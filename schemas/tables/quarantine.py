"""The quarantine: what failed, one row an enrichment of an object, with the cause and the raw reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import polars as pl

from sightflow.schemas.capability import Capability
from sightflow.schemas.failure import Cause, Failure, Stage
from sightflow.schemas.redaction import redactor
from sightflow.schemas.tables import deferred_pandera as pa
from sightflow.schemas.tables.frames import polars_schema, storable, to_frame


class QuarantineRow(pa.DataFrameModel):
    """An item that failed. A permanent cause is not tried again until object, model or user change it.

    With the stage `notify` it is a message that is no notification: no object, no capability, its body as `raw_reply`.
    """

    uri: str = pa.Field(description="the object, as in the store")
    enrichment: str = pa.Field(description="the name that the spec gives; with uri the key of the row")
    capability: str = pa.Field(
        isin=[c.value for c in Capability],
        nullable=True,
        description="what was asked; null for a message that is no notification",
    )
    fingerprint: str = pa.Field(description="hash of object_version and recipe of what failed")
    object_version: str = pa.Field(
        description="etag and size of the object; of a local file modification time and size"
    )
    recipe: str = pa.Field(
        description="hash of capability, parameters, prompt, model and weights, generation settings, schema version"
    )
    cause: str = pa.Field(
        isin=[c.value for c in Cause], description="the class of the failure, e.g. decode; docs/failures.md lists them"
    )
    stage: str = pa.Field(isin=[s.value for s in Stage], description="where in the run it failed")
    message: str = pa.Field(str_length={"min_value": 1}, description="what went wrong")
    attempts: int = pa.Field(ge=1, description="how often it was tried")
    raw_reply: str = pa.Field(nullable=True, description="what the model said, where it said anything")
    system: str = pa.Field(description="the model family that was asked last")
    model_id: str = pa.Field(description="the model or weights that were asked last")
    route: Annotated[pl.List, pl.String()] = pa.Field(description="the systems that were asked, in order")
    cost_usd: float = pa.Field(ge=0, description="US dollars that the attempts cost by the price list")
    run_id: str = pa.Field(description="the run in which it failed")
    failed_at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(description="when it failed, UTC")

    class Config:
        strict = True
        unique = ["uri", "enrichment"]


QUARANTINE_SCHEMA = polars_schema(QuarantineRow)


@dataclass(frozen=True)
class FailedItem:
    """What failed, and why: one enrichment of one object, or with the stage `notify` a message.

    The fields, with those of `failure`, are the columns of `QuarantineRow`. `route`: the systems that were asked.
    """

    uri: str
    enrichment: str
    fingerprint: str
    failure: Failure
    capability: Capability | None = None
    object_version: str = ""
    recipe: str = ""
    system: str = ""
    model_id: str = ""
    route: tuple[str, ...] = ()
    cost_usd: float = 0.0


def quarantine_rows(items: Sequence[FailedItem], run_id: str = "") -> pl.DataFrame:
    """What failed as rows of the quarantine, checked and without keys."""
    failed_at, clean = datetime.now(UTC), redactor()
    frame = to_frame(QuarantineRow, [_row(item, run_id, failed_at, clean) for item in items])
    return QuarantineRow.validate(frame) if items else frame


def _row(item: FailedItem, run_id: str, failed_at: datetime, clean: Callable[[str], str]) -> dict[str, Any]:
    failure = item.failure
    columns = vars(item) | vars(failure)
    del columns["failure"]
    return columns | {
        "capability": None if item.capability is None else item.capability.value,
        "cause": failure.cause.value,
        "stage": failure.stage.value,
        "message": storable(clean(failure.message)) or failure.cause.value,
        "raw_reply": storable(failure.raw_reply and clean(failure.raw_reply)),
        "route": list(item.route),
        "run_id": run_id,
        "failed_at": failed_at,
    }
