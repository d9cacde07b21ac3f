"""YOLO, as ultralytics lays it out: one text file an image, boxes or outlines (https://docs.ultralytics.com/datasets).

Written: `data.yaml`, `labels/NAME.txt`, `images/`, and `objects.jsonl`, which says of which object each file is. A line
is `class x_center y_center width height`, of a segmentation `class x1 y1 x2 y2 ...`, in fractions of the image's size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

import yaml

from sightflow.blocks.exports.contract import Export, ExportFormat
from sightflow.blocks.exports.exported import MASKS_BESIDE_BOXES, ExportedObject, Row, masks_beside_boxes
from sightflow.blocks.exports.media_files import AT_ONCE
from sightflow.blocks.exports.outlines import outline, with_outlines
from sightflow.schemas.capability import Capability
from sightflow.schemas.masks import decode_mask

SUFFIXES = frozenset(
    {"avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpeg2000", "jpg", "mpo", "png", "tif", "tiff", "webp"}
)
"""Of images that ultralytics looks for."""
_HEAD = """\
# Exported by sightflow. Paths begin at this file's folder. How to split the images is yours to say: `val` is all, too.
"""


class Yolo(ExportFormat):
    """Boxes of one enrichment; of a segmentation outlines, since ultralytics takes no file that has both."""

    name = "yolo"
    description = "boxes or outlines of images, one enrichment, for ultralytics and CVAT"
    capabilities = frozenset({Capability.OBJECT_DETECTION, Capability.VISUAL_GROUNDING, Capability.SEGMENTATION})
    refused_folders: ClassVar = re.compile(r"images|.*\.txt", re.IGNORECASE | re.DOTALL)
    """Ultralytics looks for the labels of an image where the last `/images/` of its path becomes `/labels/`; and where
    `a.jpg` has the labels `a.txt` no folder can be called so.
    """
    loses: ClassVar = (
        "scores; coordinates come back to within 0.00001 pixels",
        "of a segmentation the boxes, which are read from the outlines; a mask's pixels come back all",
        "a mask whose outline has more than half a million edges",
        "which model said it, what it cost, the raw reply, and what was asked beyond the labels",
    )

    def write(self, export: Export) -> None:
        """One pass; what is there is not written again."""
        classes = {label: number for number, label in enumerate(export.selected.labels)}
        waiting: list[ExportedObject] = []
        with export.folder.file("objects.jsonl") as objects:
            for each in export.selected.objects():
                (row,) = each.rows
                if each.is_video:
                    export.left_out.add("rows of videos")
                    continue
                if each.file.rpartition(".")[2].lower() not in SUFFIXES:
                    export.left_out.add("images whose name has no suffix that ultralytics looks for: they are there")
                export.left_out.add(MASKS_BESIDE_BOXES, masks_beside_boxes(row))
                row = with_outlines(row, export.left_out)
                objects.write(object_line(each, row))
                if not export.folder.has(f"labels/{each.stem}.txt"):
                    with export.folder.file(f"labels/{each.stem}.txt") as file:
                        file.writelines(_lines(row, classes))
                waiting.append(each)
                if len(waiting) == AT_ONCE:
                    export.media.place(waiting, "images")
                    waiting = []
            export.media.place(waiting, "images")
        (export.folder.path / "images").mkdir(exist_ok=True)
        names = {number: label for label, number in classes.items()}
        with export.folder.file("data.yaml") as file:
            file.write(_HEAD)
            # Not everything that is unprintable comes back from PyYAML as it went out, unless it is escaped.
            plain = all(map(str.isprintable, names.values()))
            yaml.safe_dump(
                {"train": "images", "val": "images", "names": names}, file, allow_unicode=plain, sort_keys=False
            )


def object_line(each: ExportedObject, row: Row) -> str:
    """One line of `objects.jsonl`: which object a file is of, and its version and size as they were."""
    names = ("uri", "object_version", "sha256", "width", "height", "duration", "frame_rate")
    return json.dumps({"file": each.file} | {name: row[name] for name in names}, ensure_ascii=False) + "\n"


def _lines(row: Row, classes: Mapping[str, int]) -> Iterator[str]:
    width, height = row["width"], row["height"]
    for region in row["regions"]:
        if row["capability"] == Capability.SEGMENTATION:
            points = outline(decode_mask(region["mask"], width, height)) / (width, height)
            numbers = points.reshape(-1).tolist()
        else:
            numbers = [
                (region["x_min"] + region["x_max"]) / 2 / width,
                (region["y_min"] + region["y_max"]) / 2 / height,
                (region["x_max"] - region["x_min"]) / width,
                (region["y_max"] - region["y_min"]) / height,
            ]
        yield f"{classes[region['label']]} {' '.join(f'{number:.10f}' for number in numbers)}\n"
