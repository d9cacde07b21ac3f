"""validate: answers become catalog rows that pass every check, and quarantine rows with their cause."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
from pandera.errors import SchemaErrors
from prefect import task
from prefect.cache_policies import NO_CACHE

from sightflow.schemas.enrichment import (
    OUTPUT_SCHEMA_VERSION,
    FieldsResult,
    Region,
    RegionsResult,
    Result,
    TextResult,
    TrackPoint,
    TracksResult,
)
from sightflow.schemas.failure import Cause, Failure, Stage
from sightflow.schemas.run.plan import Shard
from sightflow.schemas.run.timing import Span, timed
from sightflow.schemas.tables.catalog import CatalogRow
from sightflow.schemas.tables.frames import storable, to_frame
from sightflow.schemas.tables.quarantine import FailedItem, quarantine_rows
from sightflow.schemas.vision import Answer, Replies


class Validated:
    """A shard's rows, ready to publish: `rows` as `CatalogRow`, `failed` as `QuarantineRow`.

    `spans`: when each stage was at work on it. `error`: what ended it before all of it was answered, if anything has.
    `replaced`: those of its keys that had a row when the run was planned.
    A plain class, as `Replies` is.
    """

    def __init__(
        self,
        rows: pl.DataFrame,
        failed: pl.DataFrame,
        spans: list[Span],
        system: str,
        error: Exception | None = None,
        replaced: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.rows = rows
        self.failed = failed
        self.spans = spans
        self.system = system
        self.error = error
        self.replaced = replaced


@task(task_run_name="validate-{shard.index}", cache_policy=NO_CACHE, persist_result=False)
def validate(shard: Shard, replies: Replies, run_id: str) -> Validated:
    """Check every answer of a shard; every enrichment asked comes out exactly once, as a row or as a failure.

    Of a shard that was ended midway, every one that was answered does.
    """
    spans = list(replies.spans)
    with timed(spans, Stage.VALIDATE):
        rows, failures = _checked(replies.answers, run_id)
        failed = quarantine_rows(_failed_items(replies.answers, failures), run_id)
    expected = len(replies.answers) if replies.error else shard.size
    if rows.height + failed.height != expected:
        raise RuntimeError(f"shard {shard.index}: {expected} were asked and {rows.height + failed.height} came out")
    return Validated(rows, failed, spans, shard.system, replies.error, shard.replaced)


def failures_of(answers: Sequence[Answer]) -> list[Failure | None]:
    """For each answer, why it cannot be published, or None: the model's failure, or the checks its row breaks."""
    return _checked(answers, run_id="check")[1]


def _checked(answers: Sequence[Answer], run_id: str) -> tuple[pl.DataFrame, list[Failure | None]]:
    """The rows that pass every check, and for each answer why it gives none, or None."""
    failures = [answer.reply.failure or _unwritable(answer) for answer in answers]
    candidates = [k for k, failure in enumerate(failures) if failure is None]
    rows = _frame([answers[k] for k in candidates], run_id)
    broken = _broken_checks(rows)
    for row, checks in broken.items():
        message = "the row breaks: " + ", ".join(sorted(checks))
        failures[candidates[row]] = Failure(Cause.SCHEMA, message, Stage.VALIDATE)
    if broken:  # what is left is checked anew, as a whole
        rows = CatalogRow.validate(rows.filter(~pl.int_range(pl.len()).is_in(list(broken))), lazy=True)
    return rows, failures


def _failed_items(answers: Sequence[Answer], failures: Sequence[Failure | None]) -> list[FailedItem]:
    return [_failed_item(answer, failure) for answer, failure in zip(answers, failures, strict=True) if failure]


def _failed_item(answer: Answer, failure: Failure) -> FailedItem:
    item, resolved, reply = answer.item, answer.resolved, answer.reply
    return FailedItem(
        uri=item.uri,
        enrichment=resolved.enrichment.name,
        fingerprint=fingerprint(resolved.recipe, item.object_version),
        failure=replace(failure, raw_reply=failure.raw_reply or reply.raw_reply),
        capability=resolved.enrichment.capability,
        object_version=item.object_version,
        recipe=resolved.recipe,
        system=reply.system,
        model_id=reply.model_id,
        route=(*reply.route, reply.system),
        cost_usd=reply.usage.cost_usd,
    )


def _broken_checks(frame: pl.DataFrame) -> dict[int, set[str]]:
    """The checks that each row of a frame breaks, by row index."""
    try:
        CatalogRow.validate(frame, lazy=True)
    except SchemaErrors as errors:
        broken: dict[int, set[str]] = {}
        for case in errors.failure_cases.iter_rows(named=True):
            if case["index"] is None:
                raise  # not about a row: the frame itself is wrong, which is a defect of ours
            column = case["column"]
            name = case["check"] if column in (None, "CatalogRow") else f"{column}: {case['check']}"
            broken.setdefault(int(case["index"]), set()).add(name)
        return broken
    return {}


def _unwritable(answer: Answer) -> Failure | None:
    """Why a result cannot be written as UTF-8, or None: a model's JSON may hold half of a surrogate pair."""
    match answer.reply.outcome:
        case TextResult(text, segments):
            words = [text, *(segment.text for segment in segments)]
        case RegionsResult(regions):
            words = [region.label for region in regions]
        case TracksResult(tracks):
            words = [track.label for track in tracks]
        case FieldsResult(fields):
            words = [fields]
        case _:
            return None
    try:
        "".join(words).encode()
    except UnicodeEncodeError:
        return Failure(Cause.MALFORMED, "the reply holds characters that are no text", Stage.VALIDATE)
    return None


def fingerprint(recipe: str, object_version: str) -> str:
    """32 hexadecimal digits over all that determines a result: what is asked and of whom, and the object's bytes."""
    return hashlib.sha256(f"{recipe}\n{object_version}".encode()).hexdigest()[:32]


def _frame(answers: Sequence[Answer], run_id: str) -> pl.DataFrame:
    inferred_at = datetime.now(UTC)
    return to_frame(CatalogRow, [_row(answer, run_id, inferred_at) for answer in answers])


def _row(answer: Answer, run_id: str, inferred_at: datetime) -> dict[str, Any]:
    item, enrichment, recipe = answer.item, answer.resolved.enrichment, answer.resolved.recipe
    reply, facts, result = answer.reply, answer.facts, answer.reply.outcome
    assert facts is not None and not isinstance(result, Failure)
    media = asdict(facts)
    return {
        "uri": item.uri,
        "enrichment": enrichment.name,
        "capability": enrichment.capability.value,
        "media_kind": media.pop("kind").value,
        "fingerprint": fingerprint(recipe, item.object_version),
        "object_version": item.object_version,
        "recipe": recipe,
        **media,
        # Sorted at the top alone: within a schema the fields keep their order, which is that of the columns.
        "parameters": json.dumps(dict(sorted(enrichment.parameters.items())), ensure_ascii=False),
        **_result_columns(result),
        "system": reply.system,
        "model_id": reply.model_id,
        "model_revision": reply.model_revision,
        "route": [*reply.route, reply.system],
        "raw_reply": storable(reply.raw_reply),
        "input_tokens": reply.usage.input_tokens,
        "output_tokens": reply.usage.output_tokens,
        "cost_usd": reply.usage.cost_usd,
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "run_id": run_id,
        "inferred_at": inferred_at,
    }


def _result_columns(result: Result) -> dict[str, Any]:
    """What a result fills; the other columns are null."""
    columns: dict[str, Any] = dict.fromkeys(("text", "segments", "regions", "tracks", "extracted"))
    match result:
        case TextResult(text, segments):
            columns |= {"text": text, "segments": [asdict(segment) for segment in segments] or None}
        case RegionsResult(regions):
            columns["regions"] = [_with_flat_box(region) for region in regions]
        case TracksResult(tracks):
            columns["tracks"] = [
                {**vars(track), "points": [_with_flat_box(point) for point in track.points]} for track in tracks
            ]
        case FieldsResult(fields):
            columns["extracted"] = fields
    return columns


def _with_flat_box(located: Region | TrackPoint) -> dict[str, Any]:
    """The fields of a region or point, its box as four of them."""
    fields = asdict(located)
    return {**fields.pop("box"), **fields}
