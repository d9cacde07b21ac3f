"""A dataset for Hugging Face's `datasets`: Parquet with its features, a row an object, a column an enrichment.

Written: `images/train-00000.parquet` and `videos/...`, a configuration each, and a card `README.md` that names them
(https://huggingface.co/docs/datasets/repository_structure). Where media are copied, images are a column `image` of
their bytes, which `datasets` decodes, and videos lie in `videos/files/`, whose column `video` says which.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from sightflow.blocks.exports.contract import Export, ExportFormat
from sightflow.blocks.exports.exported import ExportedObject
from sightflow.blocks.exports.media_files import AT_ONCE
from sightflow.schemas.capability import TEXT_CAPABILITIES, Capability
from sightflow.schemas.tables.catalog import REGION, TRACK
from sightflow.schemas.tables.labels import OBJECT_FACTS

OBJECTS_A_FILE = 1000
_GROUP_BYTES = 64 * 2**20
_CARD = """\
---
configs:
{configs}---
# Exported by sightflow

A row is one object, a column one enrichment. Boxes are in pixels of the upright image, masks the `counts` of a COCO RLE
of its height and width.
"""
_IMAGE = pl.Struct({"bytes": pl.Binary(), "path": pl.String()})


class HuggingFace(ExportFormat):
    """Two configurations, `images` and `videos`, since their media have columns of another type."""

    name = "hf"
    description = "Parquet with features, for Hugging Face's datasets"
    loses: ClassVar = (
        "the timed segments of a video's caption, beside its text",
        "extracted fields are a JSON text",
        "which model said it, what it cost, the raw reply, and what was asked",
    )

    def write(self, export: Export) -> None:
        """Files of a thousand objects; those that are there stay."""
        there = {"images": False, "videos": False}
        count = export.selected.objects_count
        for number, start in enumerate(range(0, count, OBJECTS_A_FILE)):
            objects = export.selected.objects(start, min(start + OBJECTS_A_FILE, count))
            self._write_files(export, number, objects, there)
        with export.folder.file("README.md") as file:
            named = [kind for kind, some in there.items() if some]
            file.write(
                _CARD.format(
                    configs="".join(
                        f"- config_name: {kind}\n  data_files: {kind}/train-*.parquet\n"
                        + ("  default: true\n" if kind == named[0] else "")
                        for kind in named
                    )
                )
            )

    def _write_files(
        self, export: Export, number: int, objects: Iterator[ExportedObject], there: dict[str, bool]
    ) -> None:
        """The objects of a range: images into one file, videos into another."""
        names = {kind: f"{kind}/train-{number:05d}.parquet" for kind in there}
        writers = {kind: _File(export, kind) for kind, name in names.items() if not export.folder.has(name)}
        failed = export.media.failed
        with export.folder.temporary() as images, export.folder.temporary() as videos:
            paths = {"images": images, "videos": videos}
            while batch := list(islice(objects, AT_ONCE)):
                for kind in there:
                    own = [each for each in batch if each.is_video == (kind == "videos")]
                    there[kind] |= bool(own)
                    if own and kind in writers:
                        writers[kind].add(own, paths[kind])
            for kind, writer in writers.items():
                if writer.close(paths[kind]) and export.media.has_all_since(failed):
                    export.folder.place(paths[kind], names[kind])


class _File:
    """One Parquet file that is being written, a row group for as many objects as their images let be."""

    def __init__(self, export: Export, kind: str) -> None:
        self._export, self._kind = export, kind
        self._writer: Any = None
        self._columns = _columns(export, kind)
        self._waiting: list[Mapping[str, Any]] = []
        self._bytes = 0

    def add(self, objects: Sequence[ExportedObject], path: Path) -> None:
        """Write some objects, or keep them for the next row group."""
        rows = [_record(each, self._columns, self._export) for each in objects]
        if self._export.media.mode == "copy" and self._kind == "videos":
            self._export.media.place(objects, "videos/files")
            rows = [{**row, "video": each.file} for each, row in zip(objects, rows, strict=True)]
        if self._export.media.mode == "link" or self._kind == "videos":
            self._waiting += rows
            return
        with self._export.media.fetched(objects) as files:
            for each, row, file in zip(objects, rows, files, strict=True):
                content = file and file.read_bytes()
                self._waiting.append({**row, "image": content and {"bytes": content, "path": each.file}})
                self._bytes += len(content or b"")
                if self._bytes >= _GROUP_BYTES:
                    self._write(path)

    def _write(self, path: Path) -> None:
        import pyarrow.parquet as pq

        table = pl.DataFrame(self._waiting, schema=self._columns).to_arrow()
        if self._writer is None:
            features = {"info": {"features": {name: _feature(kind) for name, kind in self._columns.items()}}}
            schema = plain_schema(table.schema).with_metadata({"huggingface": json.dumps(features)})
            self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._writer.write_table(table.cast(self._writer.schema))
        self._waiting, self._bytes = [], 0

    def close(self, path: Path) -> bool:
        """Write what is left; whether there was anything at all."""
        if self._waiting:
            self._write(path)
        if self._writer is None:
            return False
        self._writer.close()
        return True


def _columns(export: Export, kind: str) -> dict[str, pl.DataType]:
    media: dict[str, pl.DataType] = {}
    if export.media.mode == "copy":
        media = {"image": _IMAGE} if kind == "images" else {"video": pl.String()}
    facts = {name: export.selected.schema()[name] for name in OBJECT_FACTS}
    return {"uri": pl.String(), **media, **facts} | {
        _column(name, export): _value_type(capability) for name, capability in export.selected.enrichments.items()
    }


def _column(enrichment: str, export: Export) -> str:
    """The name of a column: the enrichment's, unless that is taken by what every object has."""
    name, others = enrichment, export.selected.enrichments.keys() - {enrichment}
    while name in ("image", "video", "uri", *OBJECT_FACTS) or name in others:
        name += "_"
    return name


def _value_type(capability: str) -> pl.DataType:
    if capability in TEXT_CAPABILITIES or capability == Capability.STRUCTURED_EXTRACTION:
        return pl.String()
    return pl.List(TRACK if capability == Capability.OBJECT_TRACKING else REGION)


def _record(each: ExportedObject, columns: Mapping[str, pl.DataType], export: Export) -> dict[str, Any]:
    record: dict[str, Any] = dict.fromkeys(columns) | {"uri": each.uri}
    record |= {name: each.rows[-1][name] for name in OBJECT_FACTS}
    for row in each.rows:
        if row["capability"] != export.selected.enrichments[row["enrichment"]]:
            export.left_out.add("rows of another capability than the others of their enrichment")
            continue
        values = (row[name] for name in ("text", "regions", "tracks", "extracted"))
        record[_column(row["enrichment"], export)] = next((value for value in values if value is not None), None)
    return record


def _feature(kind: pl.DataType) -> Any:
    """A type in the words of `datasets.Features`, as its Parquet files hold them."""
    if kind == _IMAGE:
        return {"_type": "Image"}
    if isinstance(kind, pl.List):
        return {"feature": _feature(kind.inner), "_type": "List"}  # type: ignore[arg-type]
    if isinstance(kind, pl.Struct):
        return {field.name: _feature(field.dtype) for field in kind.fields}  # type: ignore[arg-type]
    names = {pl.String(): "string", pl.Int64(): "int64", pl.Float64(): "float64", pl.Boolean(): "bool"}
    return {"dtype": names[kind], "_type": "Value"}


def plain_schema(schema: Any) -> Any:
    """An Arrow schema in the types that every reader knows: strings and lists of 32-bit offsets, as polars has none."""
    import pyarrow as pa

    def plain(kind: Any) -> Any:
        if pa.types.is_large_list(kind):
            return pa.list_(plain(kind.value_type))
        if pa.types.is_struct(kind):
            return pa.struct([pa.field(field.name, plain(field.type)) for field in kind])
        if pa.types.is_large_binary(kind):
            return pa.binary()
        return pa.string() if pa.types.is_large_string(kind) else kind

    return pa.schema([pa.field(field.name, plain(field.type)) for field in schema])
