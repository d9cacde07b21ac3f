"""MOTChallenge: tracks of videos, a folder a sequence, as TrackEval reads them (https://motchallenge.net/instructions).

Written: `train/SEQUENCE/gt/gt.txt` and `seqinfo.ini`, the same tracks as results in
`trackers/sightflow/data/SEQUENCE.txt`, `seqmaps/train.txt`, `labels.txt`, `objects.jsonl`, and `videos/`. A line of
`gt.txt` is `frame, id, left, top, width, height, 1, class, visibility`, one of the results `frame, id, left, top,
width, height, score, -1, -1, -1`; frames are counted from 1 in the whole video, boxes are in pixels. In `gt.txt` the
seventh number is a flag: who reads it drops lines with 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import ClassVar

from sightflow.blocks.exports.contract import Export, ExportFormat
from sightflow.blocks.exports.exported import MASKS_OF_TRACKS, ExportedObject, Row, masks_of_tracks
from sightflow.blocks.exports.formats.yolo import object_line
from sightflow.schemas.capability import Capability

SPLIT = "train"


class Mot(ExportFormat):
    """Tracks of one enrichment. The classes are numbered from 1 by `labels.txt`."""

    name = "mot"
    description = "tracks of videos, one enrichment, in the layout of MOTChallenge, for TrackEval and CVAT"
    capabilities = frozenset({Capability.OBJECT_TRACKING})
    loses: ClassVar = (
        "scores, but among the results in trackers/; an interpolated place is one of visibility 0",
        "white space in labels, but for single blanks; times: they are read from the frame's number and the frame rate",
        "boxes are left, top, width, height: their far edges come back to within the rounding of a double",
        "masks beside boxes",
        "the frames as images: the video itself lies in videos/",
        "which model said it, what it cost, the raw reply, and what was asked beyond the labels",
    )

    def write(self, export: Export) -> None:
        """One pass; a sequence that is there is not written again."""
        classes = {label: number for number, label in enumerate(export.selected.labels, 1)}
        sequences = []
        with export.folder.file("objects.jsonl") as objects:
            for each in export.selected.objects():
                (row,) = each.rows
                sequence = sequence_name(each)
                sequences.append(sequence)
                objects.write(object_line(each, row).replace('{"file": ', f'{{"sequence": "{sequence}", "file": ', 1))
                export.left_out.add(MASKS_OF_TRACKS, masks_of_tracks(row))
                _write_sequence(export, row, f"{SPLIT}/{sequence}", classes)
                export.media.place([each], "videos")
        with export.folder.file("labels.txt") as file:
            file.writelines(f"{' '.join(label.split())}\n" for label in classes)
        with export.folder.file(f"seqmaps/{SPLIT}.txt") as file:
            file.writelines(f"{line}\n" for line in ["name", *sequences])


def sequence_name(each: ExportedObject) -> str:
    """The folder of a video: its number in the export, and the last part of its name where that is plain ASCII."""
    plain = "".join(c for c in PurePosixPath(each.stem).name if c.isascii() and (c.isalnum() or c in "-_"))
    return f"{each.index + 1:06d}-{plain[:60]}" if plain else f"{each.index + 1:06d}"


def _write_sequence(export: Export, row: Row, place: str, classes: Mapping[str, int]) -> None:
    sequence = PurePosixPath(place).name
    if not export.folder.has(f"{place}/seqinfo.ini"):
        last = max((point["frame_index"] + 1 for track in row["tracks"] for point in track["points"]), default=1)
        frames = max(round((row["duration"] or 0) * (row["frame_rate"] or 0)), last)
        with export.folder.file(f"{place}/seqinfo.ini") as file:
            file.write(
                f"[Sequence]\nname={sequence}\nimDir=img1\nframeRate={row['frame_rate'] or 0:g}\n"
                f"seqLength={frames}\nimWidth={row['width']}\nimHeight={row['height']}\nimExt=.jpg\n"
            )
    if not export.folder.has(f"{place}/gt/gt.txt"):
        with export.folder.file(f"{place}/gt/gt.txt") as file:
            for start, track, point in _places(row):
                file.write(f"{start},1,{classes[track['label']]},{0 if point['gap'] else 1}\n")
    if not export.folder.has(f"trackers/sightflow/data/{sequence}.txt"):
        with export.folder.file(f"trackers/sightflow/data/{sequence}.txt") as file:
            for start, _, point in _places(row):
                file.write(f"{start},{1 if point['score'] is None else repr(point['score'])},-1,-1,-1\n")


def _places(row: Row) -> Iterator[tuple[str, Row, Row]]:
    """The beginning of a line, the track and the point, in the order of frames, as the format asks for."""
    points = [(point["frame_index"] + 1, track, point) for track in row["tracks"] for point in track["points"]]
    for frame, track, point in sorted(points, key=lambda each: (each[0], each[1]["track_id"])):
        x, y = point["x_min"], point["y_min"]
        size = f"{point['x_max'] - x!r},{point['y_max'] - y!r}"
        yield f"{frame},{track['track_id']},{x!r},{y!r},{size}", track, point
