"""Labels in files of other tools, by the names that `--format` takes: a reader each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LABEL_FILES: Final[Mapping[str, str]] = {
    "coco": "sightflow.blocks.exports.label_files.coco:read_coco",
    "yolo": "sightflow.blocks.exports.label_files.yolo:read_yolo",
    "mot": "sightflow.blocks.exports.label_files.mot:read_mot",
    "label-studio": "sightflow.blocks.exports.label_files.label_studio:read_label_studio",
    "csv": "sightflow.blocks.exports.label_files.tabular:read_csv",
    "jsonl": "sightflow.blocks.exports.label_files.tabular:read_json_lines",
}
"""The function of each, as `module:name`: `(path) -> Iterator[FoundLabel]`, which may be called again."""
