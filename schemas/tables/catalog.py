"""The catalog row, its Delta/Arrow form, and the checks every row passes before it is published.

The checks that polars has expressions for stand here, the others in `row_checks`.
"""

from __future__ import annotations

from typing import Annotated

import polars as pl

from sightflow.schemas.capability import TEXT_CAPABILITIES, Capability, MediaKind
from sightflow.schemas.object_uri import URI_PATTERN
from sightflow.schemas.tables import deferred_pandera as pa
from sightflow.schemas.tables import row_checks
from sightflow.schemas.tables.frames import polars_schema

BOX_FIELDS: dict[str, pl.DataType] = {
    "x_min": pl.Float64(),
    "y_min": pl.Float64(),
    "x_max": pl.Float64(),
    "y_max": pl.Float64(),
}
REGION = pl.Struct(
    {
        "label": pl.String(),
        **BOX_FIELDS,
        "score": pl.Float64(),
        "mask": pl.String(),
        "frame_index": pl.Int64(),
        "seconds": pl.Float64(),
    }
)
SEGMENT = pl.Struct({"start": pl.Float64(), "end": pl.Float64(), "text": pl.String()})
TRACK_POINT = pl.Struct(
    {
        "frame_index": pl.Int64(),
        "seconds": pl.Float64(),
        **BOX_FIELDS,
        "score": pl.Float64(),
        "gap": pl.Boolean(),
        "mask": pl.String(),
    }
)
TRACK = pl.Struct({"track_id": pl.Int64(), "label": pl.String(), "points": pl.List(TRACK_POINT)})

_TEXT = [str(c) for c in TEXT_CAPABILITIES]
_REGIONS = [str(c) for c in (Capability.VISUAL_GROUNDING, Capability.OBJECT_DETECTION, Capability.SEGMENTATION)]


def _all_regions(condition: pl.Expr) -> pl.Expr:
    """A condition on `pl.element()` that every region of a row must meet; true where there are none."""
    return pl.col("regions").list.eval(condition.fill_null(False)).list.all().fill_null(True)


def _field(name: str) -> pl.Expr:
    return pl.element().struct.field(name)


class CatalogRow(pa.DataFrameModel):
    """One enrichment of one media object. Boxes and masks are in pixels of the upright original.

    A row that fails a check goes to the quarantine with cause `schema` and the check's name.
    """

    uri: str = pa.Field(
        str_matches=URI_PATTERN,
        description="the object, as in the store: s3://bucket/key or file:///path, keys not percent-encoded",
    )
    enrichment: str = pa.Field(
        str_matches=r"^[a-z][a-z0-9_]*$", description="the name that the spec gives; with uri the key of the row"
    )
    capability: str = pa.Field(isin=[c.value for c in Capability], description="what was asked, e.g. image_captioning")
    media_kind: str = pa.Field(isin=[kind.value for kind in MediaKind], description="image or video")
    fingerprint: str = pa.Field(
        str_length={"min_value": 8},
        description="hash of object_version and recipe; the same fingerprint is the same result",
    )
    object_version: str = pa.Field(
        description="etag and size of the object; of a local file modification time and size"
    )
    recipe: str = pa.Field(
        description="hash of capability, parameters, prompt, model and weights, generation settings, schema version"
    )
    sha256: str = pa.Field(str_matches=r"^[0-9a-f]{64}$", description="of the bytes that were seen, in hex")
    width: int = pa.Field(gt=0, description="pixels of the upright original")
    height: int = pa.Field(gt=0, description="pixels of the upright original")
    duration: float = pa.Field(ge=0, nullable=True, description="seconds; null for an image")
    frame_rate: float = pa.Field(gt=0, nullable=True, description="frames a second; null for an image")
    parameters: str = pa.Field(
        description="what was asked beyond the capability, as JSON: question, labels, choices, ..."
    )
    text: str = pa.Field(nullable=True, description="the caption or answer; null for regions and tracks")
    segments: Annotated[pl.List, SEGMENT] = pa.Field(
        nullable=True, description="timed captions of a video: start and end in seconds, text"
    )
    regions: Annotated[pl.List, REGION] = pa.Field(
        nullable=True,
        description="boxes in pixels of the upright original; score 0..1; mask: counts of a COCO RLE of that size",
    )
    tracks: Annotated[pl.List, TRACK] = pa.Field(
        nullable=True,
        description="objects through a video: a track_id, a label and a box for each sampled frame; mask as in regions",
    )
    extracted: str = pa.Field(
        nullable=True, description="the fields of structured extraction, as a JSON object of the schema in `parameters`"
    )
    system: str = pa.Field(description="the model family that answered, e.g. florence-2")
    model_id: str = pa.Field(description="the model or weights that answered")
    model_revision: str = pa.Field(nullable=True, description="the revision of the weights; null where there is none")
    route: Annotated[pl.List, pl.String()] = pa.Field(
        description="the systems that were asked, in order; the last one answered"
    )
    raw_reply: str = pa.Field(nullable=True, description="what the model said, before it was read")
    input_tokens: int = pa.Field(ge=0, description="tokens of the request")
    output_tokens: int = pa.Field(ge=0, description="tokens of the reply")
    cost_usd: float = pa.Field(ge=0, description="US dollars by the price list; 0 for a local model")
    schema_version: int = pa.Field(description="of the form of the result")
    run_id: str = pa.Field(description="the run that published the row")
    inferred_at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(description="when the model answered, UTC")

    class Config:
        strict = True
        unique = ["uri", "enrichment"]

    @pa.dataframe_check(name="has_the_result_its_capability_gives")
    def has_its_result(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Text for text, with segments or without, regions for regions, tracks for tracks, fields for fields; nothing
        else is filled.
        """
        names = ("text", "segments", "regions", "tracks", "extracted")
        text, segments, regions, tracks, extracted = (pl.col(name).is_not_null() for name in names)
        kind = pl.col("capability")
        return data.lazyframe.select(
            pl.when(kind.is_in(_TEXT))
            .then(text & ~regions & ~tracks & ~extracted)
            .when(kind.is_in(_REGIONS))
            .then(regions & ~text & ~tracks & ~segments & ~extracted)
            .when(kind == str(Capability.STRUCTURED_EXTRACTION))
            .then(extracted & ~text & ~regions & ~tracks & ~segments)
            .otherwise(tracks & ~text & ~regions & ~segments & ~extracted)
        )

    @pa.dataframe_check(name="extracted_is_of_its_schema")
    def extracted_is_of_its_schema(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return row_checks.check_rows(data, ("extracted", "parameters"), row_checks.extracted_is_of_its_schema)

    @pa.dataframe_check(name="text_is_not_empty")
    def text_is_not_empty(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("text").is_null() | (pl.col("text").str.strip_chars() != ""))

    @pa.dataframe_check(name="text_does_not_echo_the_prompt")
    def text_is_no_echo(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return row_checks.check_rows(data, ("text", "parameters"), row_checks.text_is_no_echo)

    @pa.dataframe_check(name="answer_is_among_the_choices")
    def answer_is_a_choice(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return row_checks.check_rows(data, ("text", "parameters"), row_checks.answer_is_a_choice)

    @pa.dataframe_check(name="boxes_are_ordered")
    def boxes_are_ordered(cls, data: pa.PolarsData) -> pl.LazyFrame:
        ordered = (_field("x_min") < _field("x_max")) & (_field("y_min") < _field("y_max"))
        return data.lazyframe.select(_all_regions(ordered))

    @pa.dataframe_check(name="boxes_are_inside_the_picture")
    def boxes_are_inside(cls, data: pa.PolarsData) -> pl.LazyFrame:
        not_before = _all_regions((_field("x_min") >= 0) & (_field("y_min") >= 0))

        def furthest(edge: str) -> pl.Expr:
            return pl.col("regions").list.eval(_field(edge)).list.max().fill_null(0)

        return data.lazyframe.select(
            not_before & (furthest("x_max") <= pl.col("width")) & (furthest("y_max") <= pl.col("height"))
        )

    @pa.dataframe_check(name="numbers_are_finite")
    def numbers_are_finite(cls, data: pa.PolarsData) -> pl.LazyFrame:
        finite = pl.all_horizontal(*(_field(edge).is_finite() for edge in BOX_FIELDS))
        return data.lazyframe.select(_all_regions(finite))

    @pa.dataframe_check(name="labels_are_not_empty")
    def labels_are_not_empty(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(_all_regions(_field("label").str.strip_chars() != ""))

    @pa.dataframe_check(name="scores_are_between_0_and_1")
    def scores_are_ratios(cls, data: pa.PolarsData) -> pl.LazyFrame:
        score = _field("score")
        return data.lazyframe.select(_all_regions(score.is_null() | score.is_between(0, 1)))

    @pa.dataframe_check(name="masks_decode_to_the_size_of_the_picture")
    def masks_fit(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return row_checks.check_rows(data, ("regions", "capability", "width", "height"), row_checks.masks_fit)

    @pa.dataframe_check(name="region_times_are_inside_the_video")
    def region_times_are_inside(cls, data: pa.PolarsData) -> pl.LazyFrame:
        latest = pl.col("regions").list.eval(_field("seconds")).list.max()
        return data.lazyframe.select((latest <= pl.col("duration") + row_checks.END_TOLERANCE_SECONDS).fill_null(True))

    @pa.dataframe_check(name="segments_are_ordered_and_inside_the_video")
    def segments_are_inside(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return row_checks.check_rows(data, ("segments", "duration"), row_checks.segments_are_inside)

    @pa.dataframe_check(name="tracks_are_sound")
    def tracks_are_sound(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return row_checks.check_rows(data, ("tracks", "width", "height", "duration"), row_checks.tracks_are_sound)

    @pa.dataframe_check(name="tracks_have_the_masks_asked_for")
    def tracks_have_masks(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return row_checks.check_rows(data, ("tracks", "parameters"), row_checks.tracks_have_the_masks_asked)


CATALOG_SCHEMA = polars_schema(CatalogRow)
