"""COCO: regions and captions of images, a JSON file an enrichment (https://cocodataset.org/#format-data).

Written: `annotations/NAME.json` and, where media are copied or linked, `images/`. Boxes are `[x, y, width, height]` in
pixels, masks compressed RLE, as pycocotools has them. Beside the fields of the format stand `score`, and for each image
its `uri`, `object_version` and `sha256`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import IO, Any, ClassVar, Final

from sightflow.blocks.exports.contract import Export, ExportFormat
from sightflow.blocks.exports.exported import ExportedObject, Row
from sightflow.blocks.exports.media_files import AT_ONCE
from sightflow.schemas.capability import Capability

IMAGES: Final = "images"


class Coco(ExportFormat):
    """One file an enrichment; the ids of images and categories are the same in all of them."""

    name = "coco"
    description = "boxes, masks and captions of images, for pycocotools, Detectron, FiftyOne, CVAT"
    loses: ClassVar = (
        "boxes are x, y, width, height: their far edges come back to within the rounding of a double",
        "which model said it, what it cost, the raw reply, and what was asked beyond the labels",
    )

    def write(self, export: Export) -> None:
        """Two passes over the rows: the images, then the annotations."""
        wanted = [name for name, kind in export.selected.enrichments.items() if kind in _WRITERS]
        categories = {label: number for number, label in enumerate(export.selected.labels, 1)}
        waiting: list[ExportedObject] = []
        with ExitStack() as stack:
            files = {name: stack.enter_context(export.folder.file(f"annotations/{name}.json")) for name in wanted}
            for name, file in files.items():
                is_captions = export.selected.enrichments[name] == Capability.IMAGE_CAPTIONING
                _begin(file, None if is_captions else categories)
            firsts = dict.fromkeys(files, True)
            for each in export.selected.objects():
                for row in each.rows:
                    if reason := _left_out(row):
                        export.left_out.add(reason)
                    else:
                        _append(files[row["enrichment"]], _image(each, row), firsts, row["enrichment"])
                waiting.append(each)
                if len(waiting) == AT_ONCE:
                    _place(export, waiting)
                    waiting = []
            _place(export, waiting)
            for file in files.values():
                file.write('\n],\n"annotations": [')
            firsts, ids = dict.fromkeys(files, True), Counter[str]()
            for each in export.selected.objects():
                for row in each.rows:
                    if _left_out(row):
                        continue
                    for annotation in _WRITERS[row["capability"]](row, categories):
                        ids[row["enrichment"]] += 1
                        ours = {"id": ids[row["enrichment"]], "image_id": each.index + 1}
                        _append(files[row["enrichment"]], ours | annotation, firsts, row["enrichment"])
            for file in files.values():
                file.write("\n]}\n")


def _place(export: Export, objects: list[ExportedObject]) -> None:
    export.media.place([each for each in objects if not all(map(_left_out, each.rows))], IMAGES)


def _begin(file: IO[str], categories: Mapping[str, int] | None) -> None:
    """With the categories; captions have none, and pycocotools would look for them."""
    head: dict[str, Any] = {"info": {"description": "exported by sightflow", "version": "1"}, "licenses": []}
    if categories is not None:
        head["categories"] = [{"id": number, "name": name, "supercategory": ""} for name, number in categories.items()]
    file.write(json.dumps(head, ensure_ascii=False)[:-1] + ',\n"images": [')


def _append(file: IO[str], entry: Mapping[str, Any], firsts: dict[str, bool], name: str) -> None:
    file.write("\n" if firsts[name] else ",\n")
    firsts[name] = False
    file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False))


def _image(each: ExportedObject, row: Row) -> dict[str, Any]:
    known = {name: row[name] for name in ("width", "height", "uri", "object_version", "sha256")}
    return {"id": each.index + 1, "file_name": each.file, **known}


def _left_out(row: Row) -> str | None:
    if row["media_kind"] != "image":
        return "rows of videos"
    if row["capability"] not in _WRITERS:
        return f"rows of {row['capability']}"
    return None


def _regions(row: Row, categories: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    from pycocotools import mask as coco_mask

    for region in row["regions"]:
        x, y = region["x_min"], region["y_min"]
        width, height = region["x_max"] - x, region["y_max"] - y
        entry = {
            "category_id": categories[region["label"]],
            "bbox": [x, y, width, height],
            "area": width * height,
            "iscrowd": 0,
        }
        if region["mask"] is not None:
            rle = {"size": [row["height"], row["width"]], "counts": region["mask"]}
            area = float(coco_mask.area({**rle, "counts": region["mask"].encode("ascii")}))
            entry |= {"segmentation": rle, "area": area}
        yield entry if region["score"] is None else {**entry, "score": region["score"]}


def _caption(row: Row, categories: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    yield {"caption": row["text"]}


_WRITERS: Final[Mapping[str, Callable[[Row, Mapping[str, int]], Iterator[dict[str, Any]]]]] = {
    Capability.OBJECT_DETECTION: _regions,
    Capability.VISUAL_GROUNDING: _regions,
    Capability.SEGMENTATION: _regions,
    Capability.IMAGE_CAPTIONING: _caption,
}
