"""The inventory: what the source holds, one row an object, as listed and before anything is read."""

from __future__ import annotations

from typing import Annotated

import polars as pl

from sightflow.schemas.capability import MediaKind
from sightflow.schemas.object_uri import URI_PATTERN
from sightflow.schemas.tables import deferred_pandera as pa
from sightflow.schemas.tables.frames import polars_schema


class Inventory(pa.DataFrameModel):
    """`object_version` changes whenever the bytes do: etag and size (S3), mtime and size (local).

    `media_kind` chooses the model: what the name says, else what the first bytes are; null where the name does not say
    it and nobody has looked. All the bytes decide when the object is read.
    """

    uri: str = pa.Field(unique=True, str_matches=URI_PATTERN)
    media_kind: str = pa.Field(isin=[kind.value for kind in MediaKind], nullable=True)
    object_version: str = pa.Field(str_length={"min_value": 1})
    bytes: int = pa.Field(ge=0)
    modified: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)

    class Config:
        strict = True


INVENTORY_SCHEMA = polars_schema(Inventory)
