"""The checks of a catalog row that polars has no expression for: plain Python over some columns of each row."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import polars as pl

from sightflow.schemas.capability import Capability
from sightflow.schemas.extraction.values import problem_of
from sightflow.schemas.tables import deferred_pandera as pa

Row = dict[str, Any]

END_TOLERANCE_SECONDS = 0.001
"""How far a time may lie behind the end of its video: both are rounded."""


def check_rows(data: pa.PolarsData, columns: tuple[str, ...], passes: Callable[[Row], bool]) -> pl.LazyFrame:
    """Whether each row passes, given some of its columns; in the form that pandera takes from a dataframe check."""
    frame = data.lazyframe.select(columns).collect()
    return pl.LazyFrame({"passes": [passes(row) for row in frame.iter_rows(named=True)]})


def text_is_no_echo(row: Row) -> bool:
    """The text is not the prompt or question given back."""
    if row["text"] is None:
        return True
    parameters = json.loads(row["parameters"])
    prompts = (parameters.get(key) for key in ("prompt", "question"))
    return row["text"].strip().casefold() not in {prompt.strip().casefold() for prompt in prompts if prompt}


def answer_is_a_choice(row: Row) -> bool:
    """Where choices are given, the text is one of them."""
    choices = json.loads(row["parameters"]).get("choices")
    return not choices or row["text"] in choices


def extracted_is_of_its_schema(row: Row) -> bool:
    """The extracted fields are of the schema that the row's parameters hold."""
    if row["extracted"] is None:
        return True
    schema = json.loads(row["parameters"]).get("schema")
    return schema is not None and problem_of(json.loads(row["extracted"]), schema) is None


def masks_fit(row: Row) -> bool:
    """Every mask fills exactly the size of the image; a segmentation has one in every region."""
    from sightflow.schemas.masks import mask_fits  # with the libraries of arrays, which what only plans does not need

    masks = [region["mask"] for region in row["regions"] or ()]
    if row["capability"] == Capability.SEGMENTATION and None in masks:
        return False
    return all(mask_fits(mask, row["width"], row["height"]) for mask in masks if mask is not None)


def segments_are_inside(row: Row) -> bool:
    """Segments are in the order of their times, and inside the video."""
    spans = [(segment["start"], segment["end"]) for segment in row["segments"] or ()]
    latest = (row["duration"] or 0) + END_TOLERANCE_SECONDS
    return all(0 <= start <= end <= latest for start, end in spans) and spans == sorted(spans)


def tracks_are_sound(row: Row) -> bool:
    """No empty track, ids unique, times ordered and inside the video, boxes inside the frame, masks of its size."""
    tracks = row["tracks"] or ()
    if len({track["track_id"] for track in tracks}) != len(tracks):
        return False
    return all(_track_is_sound(track, row) for track in tracks)


def _track_is_sound(track: Row, row: Row) -> bool:
    points = track["points"]
    indices = [point["frame_index"] for point in points]
    times = [point["seconds"] for point in points]
    if not points or indices != sorted(set(indices)) or times != sorted(times):
        return False
    if times[0] < 0 or times[-1] > (row["duration"] or 0) + END_TOLERANCE_SECONDS or not track["label"].strip():
        return False
    return all(
        _point_is_inside(point, row["width"], row["height"]) and _mask_fits(point["mask"], row) for point in points
    )


def tracks_have_the_masks_asked(row: Row) -> bool:
    """Where masks were asked for, each place of a track that was seen has one, and an interpolated one none; else none
    has.
    """
    asked = bool(json.loads(row["parameters"]).get("masks")) if row["tracks"] else False
    points = (point for track in row["tracks"] or () for point in track["points"])
    return all((point["mask"] is not None) == (asked and not point["gap"]) for point in points)


def _mask_fits(mask: str | None, row: Row) -> bool:
    if mask is None:
        return True
    from sightflow.schemas.masks import mask_fits

    return mask_fits(mask, row["width"], row["height"])


def _point_is_inside(point: Row, width: int, height: int) -> bool:
    return (
        0 <= point["x_min"] < point["x_max"] <= width
        and 0 <= point["y_min"] < point["y_max"] <= height
        and (point["score"] is None or 0 <= point["score"] <= 1)
    )
