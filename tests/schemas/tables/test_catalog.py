"""The catalog's checks: a right row passes, and each way of being wrong is named."""

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from pandera.errors import SchemaErrors

from sightflow.schemas.extraction.json_schema import normalized
from sightflow.schemas.masks import encode_mask
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA, CatalogRow


def region(**changes: Any) -> dict[str, Any]:
    box = {"label": "dog", "x_min": 1.0, "y_min": 2.0, "x_max": 30.0, "y_max": 20.0}
    return {**box, "score": 0.5, "mask": None, "frame_index": None, "seconds": None, **changes}


def row(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = dict.fromkeys(CATALOG_SCHEMA)
    good |= {
        "uri": "s3://b/k.jpg",
        "enrichment": "objects",
        "capability": "object_detection",
        "media_kind": "image",
        "fingerprint": "f" * 32,
        "object_version": "etag-5",
        "recipe": "r" * 16,
        "sha256": "a" * 64,
        "width": 40,
        "height": 30,
        "parameters": "{}",
        "regions": [region()],
        "system": "florence-2",
        "model_id": "m",
        "route": ["florence-2"],
        "input_tokens": 1,
        "output_tokens": 1,
        "cost_usd": 0.0,
        "schema_version": 1,
        "run_id": "run",
        "inferred_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return {**good, **changes}


def caption(**changes: Any) -> dict[str, Any]:
    asked = {"capability": "image_captioning", "enrichment": "caption", "regions": None, "text": "a dog"}
    return row(**asked | changes)


def answer(**changes: Any) -> dict[str, Any]:
    asked = '{"question": "Is it a dog?", "choices": ["yes", "no"]}'
    return caption(capability="visual_question_answering", parameters=asked, **changes)


SCHEMA = normalized({"type": "object", "properties": {"total": {"type": "number", "minimum": 0}}})


def receipt(extracted: str | None, **changes: Any) -> dict[str, Any]:
    asked = json.dumps({"schema": SCHEMA})
    read = {"capability": "structured_extraction", "parameters": asked, "regions": None, "extracted": extracted}
    return row(**read | changes)


def tracked(*masks: str | None, asked: bool = True, gap: bool = False) -> dict[str, Any]:
    """A row with one track of so many places; `gap`: of the last one."""
    box = {"x_min": 1.0, "y_min": 2.0, "x_max": 30.0, "y_max": 20.0}
    points = [
        {"frame_index": k, "seconds": k / 10, **box, "score": 0.5, "gap": gap and k == len(masks) - 1, "mask": mask}
        for k, mask in enumerate(masks)
    ]
    parameters = json.dumps({"labels": ["dog"], "masks": True} if asked else {"labels": ["dog"]})
    video = {"capability": "object_tracking", "media_kind": "video", "duration": 2.0, "frame_rate": 10.0}
    tracks = [{"track_id": 1, "label": "dog", "points": points}]
    return row(**video, parameters=parameters, regions=None, tracks=tracks)


def broken(*rows: dict[str, Any]) -> set[tuple[int, str]]:
    """The (row, check) pairs that a frame breaks."""
    try:
        CatalogRow.validate(pl.DataFrame(rows, schema=CATALOG_SCHEMA), lazy=True)
    except SchemaErrors as errors:
        return {(case["index"], case["check"]) for case in errors.failure_cases.iter_rows(named=True)}
    return set()


MASK = encode_mask(np.ones((30, 40), dtype=bool))


@pytest.mark.parametrize(
    "good",
    [
        row(),
        row(regions=[]),
        row(regions=[region(x_min=0.0, y_min=0.0, x_max=40.0, y_max=30.0, score=None)]),
        row(capability="segmentation", regions=[region(mask=MASK)]),
        caption(),
        answer() | {"text": "yes"},
        receipt('{"total": 2.5}'),
        receipt("{}"),
        tracked(MASK, MASK),
        tracked(MASK, None, gap=True),
        tracked(None, None, asked=False),
    ],
)
def test_a_right_row_passes(good: dict[str, Any]) -> None:
    assert broken(good) == set()


@pytest.mark.parametrize(
    ("bad", "check"),
    [
        (row(segments=[{"start": 0.0, "end": 1.0, "text": "a"}]), "has_the_result_its_capability_gives"),
        (row(regions=[region(x_min=30.0, x_max=1.0)]), "boxes_are_ordered"),
        (row(regions=[region(x_min=5.0, x_max=5.0)]), "boxes_are_ordered"),
        (row(regions=[region(x_max=40.5)]), "boxes_are_inside_the_picture"),
        (row(regions=[region(), region(y_min=-0.5)]), "boxes_are_inside_the_picture"),
        (row(regions=[region(x_max=float("nan"))]), "numbers_are_finite"),
        (row(regions=[region(label=" ")]), "labels_are_not_empty"),
        (row(regions=[region(score=1.01)]), "scores_are_between_0_and_1"),
        (row(capability="segmentation", regions=[region(mask=None)]), "masks_decode_to_the_size_of_the_picture"),
        (row(capability="segmentation", regions=[region(mask="04")]), "masks_decode_to_the_size_of_the_picture"),
        (row(regions=None), "has_the_result_its_capability_gives"),
        (row(text="words"), "has_the_result_its_capability_gives"),
        (caption() | {"text": "  "}, "text_is_not_empty"),
        (caption(parameters='{"prompt": "Describe it."}') | {"text": "describe it. "}, "text_does_not_echo_the_prompt"),
        (answer() | {"text": "Is it a dog?"}, "text_does_not_echo_the_prompt"),
        (answer() | {"text": "maybe"}, "answer_is_among_the_choices"),
        (receipt(None), "has_the_result_its_capability_gives"),
        (caption(extracted="{}"), "has_the_result_its_capability_gives"),
        (receipt('{"total": -1}'), "extracted_is_of_its_schema"),
        (receipt('{"total": 1, "other": 2}'), "extracted_is_of_its_schema"),
        (receipt("{}", parameters="{}"), "extracted_is_of_its_schema"),
        (tracked(MASK, "04"), "tracks_are_sound"),
        (tracked(MASK, ""), "tracks_are_sound"),
        (tracked(MASK, None), "tracks_have_the_masks_asked_for"),
        (tracked(MASK, MASK, gap=True), "tracks_have_the_masks_asked_for"),
        (tracked(MASK, asked=False), "tracks_have_the_masks_asked_for"),
    ],
)
def test_each_way_of_being_wrong_is_named(bad: dict[str, Any], check: str) -> None:
    # The good neighbours are in the same frame, and only the bad row is named.
    found = broken(row(uri="s3://b/before.jpg"), bad, row(uri="s3://b/after.jpg"))
    assert (1, check) in found
    assert {index for index, _ in found} == {1}
