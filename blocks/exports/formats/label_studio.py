"""Label Studio: tasks with predictions, or of labels with annotations (https://labelstud.io/guide/tasks and
/predictions).

Written: `images/tasks-00000.json` and `videos/...`, with the labelling configuration `config.xml` of each, and the
media. Places are in percent of the image's size. Media that are here are named as Label Studio serves local files, with
the export's folder as its root; others by their URI.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import IO, Any, ClassVar
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from sightflow.blocks.exports.contract import Export, ExportFormat
from sightflow.blocks.exports.exported import (
    MASKS_BESIDE_BOXES,
    MASKS_OF_TRACKS,
    ExportedObject,
    Row,
    masks_beside_boxes,
    masks_of_tracks,
)
from sightflow.blocks.exports.media_files import AT_ONCE
from sightflow.blocks.exports.outlines import outline, with_outlines
from sightflow.schemas.capability import TEXT_CAPABILITIES, Capability
from sightflow.schemas.masks import decode_mask
from sightflow.schemas.object_uri import Scheme

OBJECTS_A_FILE = 1000
MEDIA_TAG = "Media"
"""No enrichment is called so: their names are lower case."""
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_SERVED = "/data/local-files/?d="
_TEXTS = frozenset({*TEXT_CAPABILITIES, Capability.STRUCTURED_EXTRACTION})


class LabelStudio(ExportFormat):
    """Two projects, of images and of videos, since a configuration is of one kind of media."""

    name = "label-studio"
    description = "tasks with predictions for Label Studio, and its labelling configuration"
    loses: ClassVar = (
        "places in percent come back to within the rounding of a double",
        "of a segmentation the boxes, which are read from the outlines; a mask's pixels come back all",
        "a mask whose outline has more than half a million edges",
        "that nothing was found: such an image has no result; characters in labels that XML has none for",
        "the scores and interpolated places of tracks, and the timed segments of a video's caption",
        "what it cost, the raw reply, and what was asked",
    )

    def write(self, export: Export) -> None:
        """Files of a thousand objects; those that are there stay."""
        count = export.selected.objects_count
        kinds: dict[str, dict[str, str]] = {"images": {}, "videos": {}}
        for number, start in enumerate(range(0, count, OBJECTS_A_FILE)):
            for kind, controls in kinds.items():
                objects = export.selected.objects(start, min(start + OBJECTS_A_FILE, count))
                own = (each for each in objects if each.is_video == (kind == "videos"))
                self._write_file(export, f"{kind}/tasks-{number:05d}.json", kind, own, controls)
        for kind, controls in kinds.items():
            if controls:
                with export.folder.file(f"{kind}/config.xml") as file:
                    file.write(_config(kind, controls, export.selected.labels))

    def _write_file(
        self, export: Export, name: str, kind: str, objects: Iterator[ExportedObject], controls: dict[str, str]
    ) -> None:
        is_there, first = export.folder.has(name), True
        with export.folder.temporary() as path:
            with path.open("w", encoding="utf-8", newline="") as file:
                while batch := list(islice(objects, AT_ONCE)):
                    export.media.place(batch, f"{kind}/media")
                    for each in batch:
                        results = [one for row in each.rows for one in _results(row, export)]
                        controls |= {row["enrichment"]: row["capability"] for row in each.rows}
                        _append(file, _task(each, kind, results, export), first)
                        first = False
                file.write("" if first else "\n]\n")
            if not is_there and not first:
                export.folder.place(path, name)


def _append(file: IO[str], task: Mapping[str, Any], first: bool) -> None:
    file.write(("[\n" if first else ",\n") + json.dumps(task, ensure_ascii=False, allow_nan=False))


def _task(each: ExportedObject, kind: str, results: list[dict[str, Any]], export: Export) -> dict[str, Any]:
    row = each.rows[-1]
    is_here = export.media.mode == "copy" or each.uri.startswith(f"{Scheme.FILE}://")
    address = _SERVED + quote(f"{kind}/media/{each.file}", safe="/") if is_here else each.uri
    told = {name: row[name] for name in ("uri", "object_version", "sha256")}
    if export.selected.table == "labels":
        return {"data": {kind[:-1]: address, **told}, "annotations": [{"result": results}]}
    return {"data": {kind[:-1]: address, **told}, "predictions": [{"model_version": "sightflow", "result": results}]}


# --- results ----------------------------------------------------------------------------------------


def _results(row: Row, export: Export) -> Iterator[dict[str, Any]]:
    shared = {"from_name": row["enrichment"], "to_name": MEDIA_TAG}
    if row["capability"] in _TEXTS:
        text = row["text"] if row["text"] is not None else row["extracted"]
        yield {"id": row["enrichment"], **shared, "type": "textarea", "value": {"text": [text]}}
    elif row["tracks"] is not None:
        export.left_out.add(MASKS_OF_TRACKS, masks_of_tracks(row))
        for track in row["tracks"]:
            yield {"id": f"{row['enrichment']}-{track['track_id']}", **shared, **_track(track, row)}
    elif row["media_kind"] == "video":
        export.left_out.add("regions of single frames of videos", len(row["regions"]))
    else:
        sizes = {"original_width": row["width"], "original_height": row["height"], "image_rotation": 0}
        export.left_out.add(MASKS_BESIDE_BOXES, masks_beside_boxes(row))
        row = with_outlines(row, export.left_out)
        for number, region in enumerate(row["regions"]):
            score = {} if region["score"] is None else {"score": region["score"]}
            yield {"id": f"{row['enrichment']}-{number}", **shared, **sizes, **_region(region, row), **score}


def _region(region: Row, row: Row) -> dict[str, Any]:
    width, height = row["width"], row["height"]
    if row["capability"] == Capability.SEGMENTATION:
        points = (outline(decode_mask(region["mask"], width, height)) * 100 / (width, height)).tolist()
        value = {"points": points, "closed": True, "polygonlabels": [_label(region)]}
        return {"type": "polygonlabels", "value": value}
    return {"type": "rectanglelabels", "value": {**_percent(region, row), "rectanglelabels": [_label(region)]}}


def _percent(box: Row, row: Row) -> dict[str, float]:
    width, height = row["width"], row["height"]
    return {
        "x": box["x_min"] / width * 100,
        "y": box["y_min"] / height * 100,
        "width": (box["x_max"] - box["x_min"]) / width * 100,
        "height": (box["y_max"] - box["y_min"]) / height * 100,
        "rotation": 0,
    }


def _track(track: Row, row: Row) -> dict[str, Any]:
    """Frames are counted from 1."""
    sequence = [
        {"frame": point["frame_index"] + 1, "time": point["seconds"], "enabled": True, **_percent(point, row)}
        for point in track["points"]
    ]
    frames = max(round((row["duration"] or 0) * (row["frame_rate"] or 0)), *(each["frame"] for each in sequence))
    value = {"framesCount": frames, "duration": row["duration"], "sequence": sequence, "labels": [_label(track)]}
    return {"type": "videorectangle", "value": value}


def _label(labelled: Row) -> str:
    return in_xml(labelled["label"])


def in_xml(text: str) -> str:
    """Text without what no XML document may hold (https://www.w3.org/TR/xml/#charsets)."""
    return _NOT_IN_XML.sub("\ufffd", text)


# --- the labelling configuration --------------------------------------------------------------------


def _config(kind: str, controls: Mapping[str, str], labels: tuple[str, ...]) -> str:
    options = "".join(f"    <Label value={quoteattr(in_xml(label))}/>\n" for label in labels)
    tag = "Image" if kind == "images" else "Video"
    lines = [f'<View>\n  <{tag} name="{MEDIA_TAG}" value="${kind[:-1]}"/>\n']
    for name, capability in sorted(controls.items()):
        to = f'toName="{MEDIA_TAG}"'
        if capability in _TEXTS:
            lines.append(f'  <TextArea name="{name}" {to} editable="true"/>\n')
        elif kind == "videos":
            lines.append(f'  <VideoRectangle name="{name}" {to}/>\n')
            lines.append(f'  <Labels name="{name}Labels" {to}>\n{options}  </Labels>\n')
        else:
            control = "PolygonLabels" if capability == Capability.SEGMENTATION else "RectangleLabels"
            lines.append(f'  <{control} name="{name}" {to}>\n{options}  </{control}>\n')
    return "".join([*lines, "</View>\n"])
