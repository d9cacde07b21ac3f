"""The labels: what a person says is right for an object, one row an enrichment of an object; and their history."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import polars as pl

from sightflow.schemas.failure import SightflowError
from sightflow.schemas.tables import deferred_pandera as pa
from sightflow.schemas.tables.catalog import REGION, SEGMENT, TRACK, CatalogRow
from sightflow.schemas.tables.frames import polars_schema, to_frame

RESULT_COLUMNS: Final = ("text", "segments", "regions", "tracks", "extracted")
"""The columns of a result, in `enrichments` as in `labels`: one is filled, by capability, or text with segments."""
OBJECT_FACTS: Final = ("media_kind", "object_version", "sha256", "width", "height", "duration", "frame_rate")
"""What a label keeps of the object that it is about."""


class LabelRow(pa.DataFrameModel):
    """What a person says is right for one enrichment of one object, as of the object's bytes at that time.

    Columns that stand in `enrichments` too mean the same and pass the same checks. A label of an object that has
    changed since is kept, and not used.
    """

    uri: str = CatalogRow.uri
    enrichment: str = CatalogRow.enrichment
    revision: int = pa.Field(ge=1, description="counts the changes of this label; who saves names the last one")
    capability: str = CatalogRow.capability
    media_kind: str = CatalogRow.media_kind
    object_version: str = CatalogRow.object_version
    sha256: str = pa.Field(
        str_matches=r"^[0-9a-f]{64}$",
        nullable=True,
        description="of the bytes that were labelled, in hex; null where no row of the catalog has ever told it",
    )
    width: int = CatalogRow.width
    height: int = CatalogRow.height
    duration: float = CatalogRow.duration
    frame_rate: float = CatalogRow.frame_rate
    parameters: str = CatalogRow.parameters
    text: str = CatalogRow.text
    segments: Annotated[pl.List, SEGMENT] = CatalogRow.segments
    regions: Annotated[pl.List, REGION] = CatalogRow.regions
    tracks: Annotated[pl.List, TRACK] = CatalogRow.tracks
    extracted: str = CatalogRow.extracted
    origin: str = pa.Field(
        str_length={"min_value": 1}, description="how it came here: review, restore, or import and the format"
    )
    prefilled_system: str = pa.Field(
        nullable=True, description="the model family whose result the person began with; null if with a blank"
    )
    prefilled_model_id: str = pa.Field(nullable=True, description="the model or weights of that result")
    prefilled_fingerprint: str = pa.Field(nullable=True, description="the fingerprint of that result's row")
    labelled_by: str = pa.Field(str_length={"min_value": 1}, description="who said so")
    labelled_at: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(description="when it was saved, UTC")

    class Config:
        strict = True
        unique = ["uri", "enrichment"]

    has_its_result = CatalogRow.has_its_result
    extracted_is_of_its_schema = CatalogRow.extracted_is_of_its_schema
    text_is_not_empty = CatalogRow.text_is_not_empty
    text_is_no_echo = CatalogRow.text_is_no_echo
    answer_is_a_choice = CatalogRow.answer_is_a_choice
    boxes_are_ordered = CatalogRow.boxes_are_ordered
    boxes_are_inside = CatalogRow.boxes_are_inside
    numbers_are_finite = CatalogRow.numbers_are_finite
    labels_are_not_empty = CatalogRow.labels_are_not_empty
    scores_are_ratios = CatalogRow.scores_are_ratios
    masks_fit = CatalogRow.masks_fit
    region_times_are_inside = CatalogRow.region_times_are_inside
    segments_are_inside = CatalogRow.segments_are_inside
    tracks_are_sound = CatalogRow.tracks_are_sound


class LabelHistoryRow(LabelRow):
    """A revision of a label that another has replaced, or that was taken back.

    It is written before the other takes its place: one that still stands in `labels` may be here too, and one may be
    here twice, word for word.
    """

    class Config:
        strict = True
        unique = None


LABELS_SCHEMA = polars_schema(LabelRow)


class InvalidLabel(SightflowError):
    """A label breaks the checks of its table; `problems`: the place among those that were given, and the check."""

    def __init__(self, message: str, problems: Sequence[tuple[int, str]]) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


def checked_labels(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Labels as a frame that passes every check of `LabelRow`. Raises InvalidLabel that names all that fail.

    `rows`: every column of `LabelRow`, the nested ones as lists of dictionaries, e.g. as JSON gives them.
    """
    from pandera.errors import SchemaErrors

    frame = _typed(rows)
    if frame.is_empty():
        return frame
    try:
        return LabelRow.validate(frame, lazy=True)
    except SchemaErrors as errors:
        problems = sorted(
            {
                (int(case["index"] or 0), _check(case["column"], case["check"]))
                for case in errors.failure_cases.iter_rows(named=True)
            }
        )
    raise _invalid(rows, problems)


def _typed(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows in the types of the table; what JSON may hold and the table may not is told by its row."""
    if _why_untyped(rows) is None:
        return to_frame(LabelRow, rows)
    problems = [(place, why) for place, row in enumerate(rows) if (why := _why_untyped([row])) is not None]
    raise _invalid(rows, problems)


def _why_untyped(rows: Sequence[Mapping[str, Any]]) -> str | None:
    try:
        json.dumps([{**row, "labelled_at": None} for row in rows], ensure_ascii=False).encode()
        frame = to_frame(LabelRow, rows)
        for row, kept in zip(rows, frame.iter_rows(named=True), strict=True):
            _check_kept(row, kept)
    except UnicodeEncodeError:
        return "it holds characters that are no text"
    except (TypeError, ValueError, OverflowError, RecursionError, pl.exceptions.PolarsError) as error:
        return f"a column is missing or of another type: {str(error).splitlines()[0][:200]}"
    return None


def _check_kept(given: Any, kept: Any, name: str = "the row") -> None:
    """See that a value has come into the table: polars makes null of what is of another type. Raises TypeError."""
    match given, kept:
        case None, None:
            return
        case Mapping(), Mapping():
            if unknown := given.keys() - kept.keys():
                raise TypeError(f"{name} has no {', '.join(sorted(map(str, unknown)))}")
            for each, value in kept.items():
                _check_kept(given.get(each), value, each)
        case [*before], [*after] if len(before) == len(after):
            for each, value in zip(before, after, strict=True):
                _check_kept(each, value, name)
        case _ if isinstance(given, bool) != isinstance(kept, bool) or given != kept:
            raise TypeError(f"{name} is {str(given)[:100]!r}")


def _check(column: str | None, check: str) -> str:
    return check if column in (None, LabelRow.__name__) else f"{column}: {check}"


def _invalid(rows: Sequence[Mapping[str, Any]], problems: Sequence[tuple[int, str]]) -> InvalidLabel:
    place = problems[0][0]
    key = f"{rows[place].get('enrichment')} of {rows[place].get('uri')}"
    others = len({place for place, _ in problems}) - 1
    more = f"; so do {others:,} more" if others else ""
    checks = ", ".join(check for at, check in problems if at == place)
    return InvalidLabel(f"the label {key} breaks: {checks}{more}; correct it and save again", problems)
