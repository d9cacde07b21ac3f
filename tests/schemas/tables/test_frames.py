"""The tables as they lie on disk, column by column: another order or type would be another table."""

import json
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
from deltalake import Schema

from sightflow.blocks.catalog.catalog import SCHEMAS, TABLES, Catalog, TableName
from sightflow.schemas.enrichment import Region, Segment, Track, TrackPoint
from sightflow.schemas.geometry import Box
from sightflow.schemas.run.batch import BatchedRequest
from sightflow.schemas.tables.batches import BATCH_ITEM, BatchRow
from sightflow.schemas.tables.catalog import REGION, SEGMENT, TRACK, TRACK_POINT, CatalogRow
from sightflow.schemas.tables.frames import polars_schema, storable, to_frame
from sightflow.schemas.tables.inventory import Inventory
from sightflow.schemas.tables.labels import LabelHistoryRow, LabelRow
from sightflow.schemas.tables.quarantine import QuarantineRow
from sightflow.schemas.tables.runs import RunRow

WHEN = pl.Datetime("us", "UTC")
BOX = {edge: pl.Float64() for edge in ("x_min", "y_min", "x_max", "y_max")}
REGIONS = pl.List(
    pl.Struct(
        {
            "label": pl.String(),
            **BOX,
            "score": pl.Float64(),
            "mask": pl.String(),
            "frame_index": pl.Int64(),
            "seconds": pl.Float64(),
        }
    )
)
POINTS = pl.List(
    pl.Struct(
        {
            "frame_index": pl.Int64(),
            "seconds": pl.Float64(),
            **BOX,
            "score": pl.Float64(),
            "gap": pl.Boolean(),
            "mask": pl.String(),
        }
    )
)
LABEL: list[tuple[str, pl.DataType]] = [
    ("uri", pl.String()),
    ("enrichment", pl.String()),
    ("revision", pl.Int64()),
    ("capability", pl.String()),
    ("media_kind", pl.String()),
    ("object_version", pl.String()),
    ("sha256", pl.String()),
    ("width", pl.Int64()),
    ("height", pl.Int64()),
    ("duration", pl.Float64()),
    ("frame_rate", pl.Float64()),
    ("parameters", pl.String()),
    ("text", pl.String()),
    ("segments", pl.List(pl.Struct({"start": pl.Float64(), "end": pl.Float64(), "text": pl.String()}))),
    ("regions", REGIONS),
    ("tracks", pl.List(pl.Struct({"track_id": pl.Int64(), "label": pl.String(), "points": POINTS}))),
    ("extracted", pl.String()),
    ("origin", pl.String()),
    ("prefilled_system", pl.String()),
    ("prefilled_model_id", pl.String()),
    ("prefilled_fingerprint", pl.String()),
    ("labelled_by", pl.String()),
    ("labelled_at", WHEN),
]
LABEL_NULLABLE = {
    *("sha256", "duration", "frame_rate", "text", "segments", "regions", "tracks", "extracted"),
    *("prefilled_system", "prefilled_model_id", "prefilled_fingerprint"),
}
PINNED: dict[type[pa.DataFrameModel], list[tuple[str, pl.DataType]]] = {
    CatalogRow: [
        ("uri", pl.String()),
        ("enrichment", pl.String()),
        ("capability", pl.String()),
        ("media_kind", pl.String()),
        ("fingerprint", pl.String()),
        ("object_version", pl.String()),
        ("recipe", pl.String()),
        ("sha256", pl.String()),
        ("width", pl.Int64()),
        ("height", pl.Int64()),
        ("duration", pl.Float64()),
        ("frame_rate", pl.Float64()),
        ("parameters", pl.String()),
        ("text", pl.String()),
        ("segments", pl.List(pl.Struct({"start": pl.Float64(), "end": pl.Float64(), "text": pl.String()}))),
        ("regions", REGIONS),
        ("tracks", pl.List(pl.Struct({"track_id": pl.Int64(), "label": pl.String(), "points": POINTS}))),
        ("extracted", pl.String()),
        ("system", pl.String()),
        ("model_id", pl.String()),
        ("model_revision", pl.String()),
        ("route", pl.List(pl.String())),
        ("raw_reply", pl.String()),
        ("input_tokens", pl.Int64()),
        ("output_tokens", pl.Int64()),
        ("cost_usd", pl.Float64()),
        ("schema_version", pl.Int64()),
        ("run_id", pl.String()),
        ("inferred_at", WHEN),
    ],
    QuarantineRow: [
        ("uri", pl.String()),
        ("enrichment", pl.String()),
        ("capability", pl.String()),
        ("fingerprint", pl.String()),
        ("object_version", pl.String()),
        ("recipe", pl.String()),
        ("cause", pl.String()),
        ("stage", pl.String()),
        ("message", pl.String()),
        ("attempts", pl.Int64()),
        ("raw_reply", pl.String()),
        ("system", pl.String()),
        ("model_id", pl.String()),
        ("route", pl.List(pl.String())),
        ("cost_usd", pl.Float64()),
        ("run_id", pl.String()),
        ("failed_at", WHEN),
    ],
    RunRow: [
        ("run_id", pl.String()),
        ("started_at", WHEN),
        ("finished_at", WHEN),
        ("objects", pl.Int64()),
        ("planned", pl.Int64()),
        ("published", pl.Int64()),
        ("quarantined", pl.Int64()),
        ("pruned", pl.Int64()),
        ("cost_usd", pl.Float64()),
        ("catalog_version", pl.Int64()),
        ("report", pl.String()),
    ],
    BatchRow: [
        ("batch_id", pl.String()),
        ("step", pl.Int64()),
        ("state", pl.String()),
        ("reached_at", WHEN),
        ("recorded_at", WHEN),
        ("owner", pl.String()),
        ("run_id", pl.String()),
        ("system", pl.String()),
        ("model_id", pl.String()),
        ("vendor", pl.String()),
        ("requests", pl.Int64()),
        ("vendor_batch", pl.String()),
        ("input_file", pl.String()),
        ("result_files", pl.List(pl.String())),
        ("message", pl.String()),
        ("enrichments", pl.String()),
        ("items", pl.List(BATCH_ITEM)),
    ],
    LabelRow: LABEL,
    LabelHistoryRow: LABEL,
    Inventory: [
        ("uri", pl.String()),
        ("media_kind", pl.String()),
        ("object_version", pl.String()),
        ("bytes", pl.Int64()),
        ("modified", WHEN),
    ],
}
NULLABLE = {
    CatalogRow: {
        "duration",
        "frame_rate",
        "text",
        "segments",
        "regions",
        "tracks",
        "extracted",
        "model_revision",
        "raw_reply",
    },
    QuarantineRow: {"capability", "raw_reply"},
    RunRow: {"catalog_version"},
    BatchRow: {"vendor_batch", "input_file", "message", "enrichments"},
    LabelRow: LABEL_NULLABLE,
    LabelHistoryRow: LABEL_NULLABLE,
    Inventory: {"media_kind", "modified"},
}
MODEL_OF: dict[TableName, type[pa.DataFrameModel]] = {
    "enrichments": CatalogRow,
    "quarantine": QuarantineRow,
    "runs": RunRow,
    "batches": BatchRow,
    "labels": LabelRow,
    "label_history": LabelHistoryRow,
}


@pytest.mark.parametrize("model", PINNED, ids=lambda model: model.__name__)
def test_every_column_of_a_table_is_what_it_was(model: type[pa.DataFrameModel]) -> None:
    derived = list(polars_schema(model).items())
    assert derived == PINNED[model]
    found = {name: column.dtype.type for name, column in model.to_schema().columns.items()}
    assert found == dict(derived), "what pandera finds in the same words"
    assert not any(isinstance(kind, type) for _, kind in derived), "instances, as `pl.DataFrame.schema` gives them"
    assert pl.DataFrame(schema=polars_schema(model)).schema == dict(PINNED[model])


@pytest.mark.parametrize("model", NULLABLE, ids=lambda model: model.__name__)
def test_what_may_be_null_is_what_it_was(model: type[pa.DataFrameModel]) -> None:
    assert {name for name, column in model.to_schema().columns.items() if column.nullable} == NULLABLE[model]


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_made_with_these_columns_and_each_may_be_null_for_delta(table: TableName, tmp_path: Path) -> None:
    catalog = Catalog(uri=f"file://{tmp_path}/catalog")
    on_disk = json.loads(catalog.open_or_create(table).schema().to_json())["fields"]
    pinned = Schema.from_arrow(pl.DataFrame(schema=dict(PINNED[MODEL_OF[table]])).to_arrow().schema)
    assert [{**field, "metadata": {}} for field in on_disk] == json.loads(pinned.to_json())["fields"]
    assert all(field["nullable"] for field in on_disk)
    assert catalog.scan(table).collect_schema() == dict(PINNED[MODEL_OF[table]])
    assert SCHEMAS[table] == polars_schema(MODEL_OF[table])


BOXED = Box(0, 0, 1, 1)


@pytest.mark.parametrize(
    ("value", "struct"),
    [
        (Region("dog", BOXED), REGION),
        (Segment(0, 1, "a dog"), SEGMENT),
        (TrackPoint(0, 0, BOXED), TRACK_POINT),
        (Track(1, "dog", ()), TRACK),
        (BatchedRequest("id", "uri", "caption", "v", "r", 1, False, "image", 1, 1, "0", None, None, 1, 1), BATCH_ITEM),
    ],
)
def test_a_nested_column_holds_what_the_result_holds_and_nothing_else(value: Any, struct: pl.Struct) -> None:
    """polars fills what is missing in a struct with nulls and drops what it does not know."""
    fields = [*vars(value)]
    if "box" in fields:
        fields[fields.index("box") : fields.index("box") + 1] = vars(BOXED)
    assert fields == [field.name for field in struct.fields]


def row() -> dict[str, Any]:
    return {"uri": "s3://b/k", "media_kind": "image", "object_version": "v", "bytes": 1, "modified": None}


def test_a_row_becomes_a_frame_in_the_order_of_the_model() -> None:
    frame = to_frame(Inventory, [dict(reversed(row().items()))])
    assert frame.rows(named=True) == [row()]
    assert frame.schema == dict(PINNED[Inventory])
    assert to_frame(Inventory, []).schema == dict(PINNED[Inventory])


def test_a_row_that_lacks_a_column_or_has_another_is_refused_by_name() -> None:
    lacking, extra = row(), row()
    del lacking["bytes"], lacking["uri"]
    extra["colour"] = "red"
    with pytest.raises(TypeError, match=r"no Inventory; missing: bytes, uri$"):
        to_frame(Inventory, [row(), lacking])
    with pytest.raises(TypeError, match=r"no Inventory; unknown: colour$"):
        to_frame(Inventory, [row(), extra])


def test_text_that_utf_8_cannot_hold_is_escaped_and_other_text_is_left() -> None:
    assert storable("a \ud83d ü") == "a \\ud83d ü"
    assert storable("ü") == "ü" and storable(None) is None
