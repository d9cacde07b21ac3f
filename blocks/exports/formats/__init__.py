"""The formats, by the names that `--format` takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FORMATS: Final[Mapping[str, str]] = {
    "coco": "sightflow.blocks.exports.formats.coco:Coco",
    "yolo": "sightflow.blocks.exports.formats.yolo:Yolo",
    "hf": "sightflow.blocks.exports.formats.hugging_face:HuggingFace",
    "webdataset": "sightflow.blocks.exports.formats.web_dataset:WebDataset",
    "mot": "sightflow.blocks.exports.formats.mot:Mot",
    "label-studio": "sightflow.blocks.exports.formats.label_studio:LabelStudio",
    "csv": "sightflow.blocks.exports.formats.tabular:Csv",
    "jsonl": "sightflow.blocks.exports.formats.tabular:JsonLines",
    "parquet": "sightflow.blocks.exports.formats.tabular:Parquet",
}
"""The class of each, as `module:name`: only the one that is asked for is imported."""
