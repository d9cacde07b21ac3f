"""Labels out of Label Studio's JSON export: what people have annotated, control by control.

The name of a control (`from_name`) is that of the enrichment, as in the configuration that is exported with the tasks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sightflow.blocks.exports.label_files.found import (
    Facts,
    FoundLabel,
    UnreadableLabels,
    WrongLabel,
    box_of,
    clipped,
    mask_of_polygons,
    number,
    read_json,
    region,
    seconds_of,
    whole,
)
from sightflow.schemas.capability import Capability
from sightflow.schemas.masks import decode_mask

Result = Mapping[str, Any]


def read_label_studio(path: Path) -> Iterator[FoundLabel]:
    """The annotations of the tasks of a file, or of each `tasks-*.json` below a folder; predictions are no labels.

    Of several annotations of a task the last one counts; one that was cancelled does not.
    """
    files = sorted(path.glob("*/tasks-*.json")) if path.is_dir() else [path]
    if not files:
        raise UnreadableLabels(f"{path} has no tasks; name the JSON that Label Studio has exported")
    for file in files:
        tasks = read_json(file)
        if not isinstance(tasks, list):
            raise UnreadableLabels(f"{file} is no list of tasks; export them as JSON")
        for number_of_task, task in enumerate(tasks, 1):
            yield from _of_task(task, f"{file}: task {number_of_task}")


def _of_task(task: Any, place: str) -> Iterator[FoundLabel]:
    try:
        data = task["data"]
        name = str(data.get("uri") or data.get("image") or data["video"])
        done = [each for each in task.get("annotations") or () if not each.get("was_cancelled")]
        results = list(done[-1]["result"]) if done else []
        by_control: dict[str, list[Result]] = defaultdict(list)
        for one in results:
            by_control[str(one["from_name"]).removesuffix("Labels")].append(one)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UnreadableLabels(f"{place} is no task of Label Studio: it lacks {error}") from None
    if done and not results:
        yield FoundLabel(name, "", _nothing, place, data.get("object_version"), says_nothing=True)
    for enrichment, own in by_control.items():
        yield FoundLabel(name, enrichment, partial(_result, own), place, data.get("object_version"))


def _result(results: Sequence[Result], facts: Facts) -> dict[str, Any]:
    try:
        kinds = {str(each["type"]) for each in results}
        if kinds == {"textarea"}:
            return _text([text for each in results for text in each["value"]["text"]], facts)
        if kinds == {"choices"}:
            return _text([text for each in results for text in each["value"]["choices"]], facts)
        if kinds == {"videorectangle"}:
            return {"tracks": [_track(each, number, facts) for number, each in enumerate(results, 1)]}
        return {"regions": [_region(each, facts) for each in results]}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise WrongLabel(f"a result lacks {error}") from None


def _nothing(facts: Facts) -> dict[str, Any]:
    """An annotation that somebody has submitted without a result: nothing is there."""
    return {"tracks" if facts["capability"] == Capability.OBJECT_TRACKING else "regions": []}


def _text(texts: Sequence[Any], facts: Facts) -> dict[str, Any]:
    if len(texts) != 1:
        raise WrongLabel(f"{len(texts)} texts; a label has one")
    is_fields = facts["capability"] == Capability.STRUCTURED_EXTRACTION
    return {"extracted" if is_fields else "text": texts[0]}


def _region(result: Result, facts: Facts) -> dict[str, Any]:
    kind, value = result["type"], result["value"]
    if value.get("rotation"):
        raise WrongLabel("a box that is turned; a box here has upright edges")
    label = value[kind][0] if kind in value else ""
    score = None if result.get("score") is None else number(result["score"])
    if kind == "rectanglelabels":
        return region(label, _edges(value, facts), facts, score=score)
    if kind == "polygonlabels":
        width, height = facts["width"], facts["height"]
        flat = [number(each) / 100 * (width, height)[k] for point in value["points"] for k, each in enumerate(point)]
        mask = mask_of_polygons([flat], facts)
        return region(label, box_of(decode_mask(mask, width, height)), facts, mask=mask, score=score)
    raise WrongLabel(f"a result of type {kind!r}; taken are rectanglelabels, polygonlabels, videorectangle, textarea")


def _edges(value: Mapping[str, Any], facts: Facts) -> tuple[float, float, float, float]:
    x, y, width, height = (number(value[name]) / 100 for name in ("x", "y", "width", "height"))
    across, down = facts["width"], facts["height"]
    return x * across, y * down, (x + width) * across, (y + height) * down


def _track(result: Result, number_of_track: int, facts: Facts) -> dict[str, Any]:
    value = result["value"]
    own = str(result.get("id", "")).rpartition("-")[2]
    points = []
    for each in value["sequence"]:
        frame = whole(each["frame"]) - 1
        counted = seconds_of(frame, facts)
        seconds = number(each["time"]) if "time" in each else counted
        points.append(
            {
                "frame_index": frame,
                "seconds": min(seconds, facts["duration"] or seconds),
                **clipped(_edges(each, facts), facts),
                "score": None,
                "gap": False,
                "mask": None,
            }
        )
    track_id = int(own) if own.isascii() and own.isdigit() and len(own) < 16 else number_of_track
    return {"track_id": track_id, "label": value["labels"][0], "points": points}
