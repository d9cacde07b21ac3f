"""What is answered and what failed comes out as rows, each field in its column, and every one exactly once."""

from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import (
    Enrichment,
    Region,
    RegionsResult,
    Result,
    Segment,
    TextResult,
    Track,
    TrackPoint,
    TracksResult,
)
from sightflow.schemas.failure import Cause, Failure, Stage
from sightflow.schemas.geometry import Box
from sightflow.schemas.media import MediaFacts
from sightflow.schemas.run.plan import ResolvedEnrichment, Shard, ShardItem
from sightflow.schemas.vision import Answer, Replies, Usage, VisionReply
from sightflow.tasks import validate as validating
from sightflow.tasks.validate import Validated, failures_of, fingerprint, validate

BOX = Box(1.0, 2.0, 30.0, 20.0)
FLAT_BOX = {"x_min": 1.0, "y_min": 2.0, "x_max": 30.0, "y_max": 20.0}
IMAGE = MediaFacts(MediaKind.IMAGE, 40, 30, "a" * 64)
VIDEO = MediaFacts(MediaKind.VIDEO, 40, 30, "b" * 64, 4.0, 25.0)
ASKED: dict[Capability, dict[str, Any]] = {
    Capability.IMAGE_CAPTIONING: {"detail": "detailed"},
    Capability.OBJECT_DETECTION: {"labels": ("dog",)},
    Capability.VIDEO_CAPTIONING: {},
    Capability.OBJECT_TRACKING: {"labels": ("dog",)},
}


def answer(
    capability: Capability, outcome: Result | Failure, uri: str = "s3://b/k", facts: MediaFacts | None = IMAGE
) -> Answer:
    enrichment = Enrichment(capability=capability, name="asked", **ASKED[capability])
    kind = facts.kind if facts else MediaKind.IMAGE
    resolved = ResolvedEnrichment(enrichment, "recipe", ("florence-2", "gemini"), kind)
    usage = Usage(11, 7, 0.25)
    reply = VisionReply(uri, "asked", outcome, "gemini", "gemini-x", "it said", usage, ("florence-2",), "pinned")
    return Answer(ShardItem(uri, "etag-5", 5, ("asked",)), resolved, facts, reply)


def validated(*answers: Answer) -> Validated:
    shard = Shard(3, "gemini", MediaKind.IMAGE, tuple(each.item for each in answers), (answers[0].resolved,))
    return validate.fn(shard, Replies(list(answers), []), "run-1")


def row_of(given: Answer) -> dict[str, Any]:
    made = validated(given)
    assert made.failed.is_empty()
    (row,) = made.rows.rows(named=True)
    return row


def test_all_that_is_known_of_an_answer_stands_in_its_row() -> None:
    row = row_of(answer(Capability.IMAGE_CAPTIONING, TextResult("a dog")))
    assert row.pop("inferred_at").tzinfo is not None
    assert row == {
        "uri": "s3://b/k",
        "enrichment": "asked",
        "capability": "image_captioning",
        "media_kind": "image",
        "fingerprint": fingerprint("recipe", "etag-5"),
        "object_version": "etag-5",
        "recipe": "recipe",
        "sha256": "a" * 64,
        "width": 40,
        "height": 30,
        "duration": None,
        "frame_rate": None,
        "parameters": '{"detail": "detailed"}',
        "text": "a dog",
        "segments": None,
        "regions": None,
        "tracks": None,
        "extracted": None,
        "system": "gemini",
        "model_id": "gemini-x",
        "model_revision": "pinned",
        "route": ["florence-2", "gemini"],
        "raw_reply": "it said",
        "input_tokens": 11,
        "output_tokens": 7,
        "cost_usd": 0.25,
        "schema_version": 1,
        "run_id": "run-1",
    }


REGION = Region("dog", BOX, 0.5, None, 2, 1.5)
FLAT_REGION = {"label": "dog", **FLAT_BOX, "score": 0.5, "mask": None, "frame_index": 2, "seconds": 1.5}
POINT = TrackPoint(2, 1.5, BOX, 0.5, gap=True)
FLAT_POINT = {"frame_index": 2, "seconds": 1.5, **FLAT_BOX, "score": 0.5, "gap": True, "mask": None}


@pytest.mark.parametrize(
    ("capability", "outcome", "column", "value"),
    [
        (Capability.OBJECT_DETECTION, RegionsResult((REGION,)), "regions", [FLAT_REGION]),
        (Capability.OBJECT_DETECTION, RegionsResult(()), "regions", []),
        (
            Capability.OBJECT_TRACKING,
            TracksResult((Track(4, "dog", (POINT,)),)),
            "tracks",
            [{"track_id": 4, "label": "dog", "points": [FLAT_POINT]}],
        ),
        (Capability.OBJECT_TRACKING, TracksResult(), "tracks", []),
        (
            Capability.VIDEO_CAPTIONING,
            TextResult("a walk", (Segment(0.0, 2.0, "it rises"),)),
            "segments",
            [{"start": 0.0, "end": 2.0, "text": "it rises"}],
        ),
        (Capability.VIDEO_CAPTIONING, TextResult("a walk"), "segments", None),
    ],
)
def test_a_result_fills_its_own_column_whole(capability: Capability, outcome: Result, column: str, value: Any) -> None:
    row = row_of(answer(capability, outcome, facts=VIDEO))
    assert row[column] == value
    assert (row["media_kind"], row["duration"], row["frame_rate"]) == ("video", 4.0, 25.0)
    filled = {name for name in ("text", "segments", "regions", "tracks") if row[name] is not None}
    assert filled <= {column, "text"} and ("text" in filled) == isinstance(outcome, TextResult)


def test_all_that_is_known_of_a_failure_stands_in_its_row() -> None:
    failure = Failure(Cause.DECODE, "broken", Stage.DECODE, attempts=2)
    made = validated(answer(Capability.IMAGE_CAPTIONING, failure, facts=None))
    assert made.rows.is_empty() and made.rows.columns
    (row,) = made.failed.rows(named=True)
    assert row.pop("failed_at").tzinfo is not None
    assert row == {
        "uri": "s3://b/k",
        "enrichment": "asked",
        "capability": "image_captioning",
        "fingerprint": fingerprint("recipe", "etag-5"),
        "object_version": "etag-5",
        "recipe": "recipe",
        "cause": "decode",
        "stage": "decode",
        "message": "broken",
        "attempts": 2,
        "raw_reply": "it said",
        "system": "gemini",
        "model_id": "gemini-x",
        "route": ["florence-2", "gemini"],
        "cost_usd": 0.25,
        "run_id": "run-1",
    }


def test_a_row_that_breaks_a_check_is_a_failure_and_its_neighbours_are_rows() -> None:
    good, bad = Region("dog", BOX), Region(" ", Box(1.0, 2.0, 99.0, 20.0))
    answers = [
        answer(Capability.OBJECT_DETECTION, RegionsResult((good,)), "s3://b/1"),
        answer(Capability.OBJECT_DETECTION, RegionsResult((good, bad)), "s3://b/2"),
        answer(Capability.OBJECT_DETECTION, RegionsResult((Region("\ud83d", BOX),)), "s3://b/3"),
        answer(Capability.OBJECT_DETECTION, RegionsResult((good,)), "s3://b/4"),
    ]
    made = validated(*answers)
    assert made.rows["uri"].to_list() == ["s3://b/1", "s3://b/4"]
    assert made.failed.select("uri", "cause", "stage", "message", "raw_reply").rows() == [
        (
            "s3://b/2",
            "schema",
            "validate",
            "the row breaks: boxes_are_inside_the_picture, labels_are_not_empty",
            "it said",
        ),
        ("s3://b/3", "malformed", "validate", "the reply holds characters that are no text", "it said"),
    ]
    assert [failure and failure.cause for failure in failures_of(answers)] == [
        None,
        Cause.SCHEMA,
        Cause.MALFORMED,
        None,
    ]


def test_a_failure_without_words_is_named_by_its_cause_and_what_is_no_text_is_escaped() -> None:
    silent = answer(Capability.IMAGE_CAPTIONING, Failure(Cause.MODEL, ""), "s3://b/1")
    odd = answer(Capability.IMAGE_CAPTIONING, Failure(Cause.MODEL, "\ud83d", raw_reply="\udcff"), "s3://b/2")
    made = validated(silent, odd)
    assert made.failed.select("message", "raw_reply").rows() == [("model", "it said"), ("\\ud83d", "\\udcff")]


def test_an_answer_that_came_out_of_nowhere_is_a_defect() -> None:
    one = answer(Capability.IMAGE_CAPTIONING, TextResult("a dog"))
    twice = replace(one.item, enrichments=("asked", "another"))
    shard = Shard(3, "gemini", MediaKind.IMAGE, (twice,), (one.resolved,))
    with pytest.raises(RuntimeError, match="shard 3: 2 were asked and 1 came out"):
        validate.fn(shard, Replies([one], []), "run-1")


def test_a_builder_that_forgets_a_column_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validating, "_result_columns", lambda _: {"text": "a dog", "segments": None, "regions": None})
    with pytest.raises(TypeError, match="no CatalogRow; missing: extracted, tracks"):
        validated(answer(Capability.IMAGE_CAPTIONING, TextResult("a dog")))


def test_no_answers_are_frames_without_rows_that_can_be_published() -> None:
    made = validate.fn(Shard(0, "gemini", MediaKind.IMAGE, (), ()), Replies([], []), "run-1")
    assert pl.concat([made.rows, validated(answer(Capability.IMAGE_CAPTIONING, TextResult("a dog"))).rows]).height == 1
    assert made.failed.is_empty()
