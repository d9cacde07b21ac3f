"""Labels out of MOTChallenge's files: tracks of videos."""

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
    clipped,
    label_of_file,
    lines_of,
    number,
    objects_of,
    seconds_of,
    whole,
)


def read_mot(path: Path) -> Iterator[FoundLabel]:
    """The labels of the sequences below a folder. Where `objects.jsonl` is there, it says of which objects; else they
    are looked for by the names of the sequences. `labels.txt` names the classes from 1; without it they are called by
    number.
    """
    known = {str(each.get("sequence")): each for each in objects_of(path)}
    classes = path / "labels.txt"
    names = dict(enumerate((line.strip() for line, _ in lines_of(classes)), 1)) if classes.exists() else {}
    files = sorted(path.glob("**/gt/gt.txt"))
    if not files:
        raise UnreadableLabels(f"{path} has no SEQUENCE/gt/gt.txt")
    for file in files:
        sequence = file.parent.parent.name
        yield label_of_file(sequence, known, partial(_result, file, names), file)


def _result(file: Path, names: Mapping[int, str], facts: Facts) -> dict[str, Any]:
    points: dict[int, list[dict[str, Any]]] = defaultdict(list)
    labels: dict[int, str] = {}
    for line, place in lines_of(file):
        parts = line.split(",")
        if len(parts) > 6 and number(parts[6]) == 0:
            continue  # by the format it is not to be counted, neither as found nor as missed
        track, label, point = _point(parts, names, facts, place)
        points[track].append(point)
        if labels.setdefault(track, label) != label:
            raise WrongLabel(f"{place}: the track {track} is {labels[track]!r} and {label!r}")
    return {
        "tracks": [
            {
                "track_id": track,
                "label": labels[track],
                "points": sorted(of_track, key=lambda point: int(point["frame_index"])),
            }
            for track, of_track in sorted(points.items())
        ]
    }


def _point(parts: Sequence[str], names: Mapping[int, str], facts: Facts, place: str) -> tuple[int, str, dict[str, Any]]:
    if len(parts) < 6:
        raise WrongLabel(f"{place}: {len(parts)} numbers; a place has at least frame, id and a box")
    frame, track = whole(parts[0]), whole(parts[1])
    x, y, width, height = map(number, parts[2:6])
    number_of_class = whole(parts[7]) if len(parts) > 7 else 1
    label = names.get(number_of_class, str(number_of_class))
    seen = number(parts[8]) if len(parts) > 8 else 1.0
    point = {
        "frame_index": frame - 1,
        "seconds": seconds_of(frame - 1, facts),
        **clipped((x, y, x + width, y + height), facts),
        "score": None,
        "gap": seen == 0,
        "mask": None,
    }
    return track, label, point
