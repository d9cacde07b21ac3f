"""WebDataset: tar files of samples, read in order by training (https://github.com/webdataset/webdataset).

Written: `shard-000000.tar` and so on, of a thousand objects each. A sample is the number of its object, `000000042`,
with `.json` (what the object is, and every row about it) and, where media are copied, its bytes with the suffix of
their format.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from sightflow.blocks.exports.contract import Export, ExportFormat
from sightflow.blocks.exports.exported import ExportedObject
from sightflow.blocks.exports.media_files import AT_ONCE
from sightflow.schemas.tables.labels import OBJECT_FACTS

OBJECTS_A_SHARD = 1000
ROW_FIELDS = ("enrichment", "capability", "parameters", "text", "segments", "regions", "tracks", "extracted")


class WebDataset(ExportFormat):
    """A shard is written at once, media and all, and holds the bytes of one batch of objects beside it on the disk."""

    name = "webdataset"
    description = "tar shards of media with all their rows as JSON, for streaming into training"
    loses: ClassVar = ("which model said it, what it cost, the raw reply",)

    def write(self, export: Export) -> None:
        """A shard at a time; those that are there stay."""
        count = export.selected.objects_count
        for number, start in enumerate(range(0, count, OBJECTS_A_SHARD)):
            name = f"shard-{number:06d}.tar"
            if export.folder.has(name):
                continue
            objects = export.selected.objects(start, min(start + OBJECTS_A_SHARD, count))
            failed = export.media.failed
            with export.folder.temporary() as path:
                with tarfile.open(path, mode="w") as shard:
                    while batch := list(islice(objects, AT_ONCE)):
                        _add(export, shard, batch)
                if export.media.has_all_since(failed):
                    export.folder.place(path, name)


def _add(export: Export, shard: tarfile.TarFile, batch: Sequence[ExportedObject]) -> None:
    if export.media.mode == "link":
        for each in batch:
            _add_bytes(shard, f"{each.index:09d}.json", _sample(each))
        return
    with export.media.fetched(batch) as files:
        for each, path in zip(batch, files, strict=True):
            _add_bytes(shard, f"{each.index:09d}.json", _sample(each))
            if path is not None:
                member = tarfile.TarInfo(f"{each.index:09d}.{suffix_of(path, each)}")
                member.size = path.stat().st_size
                with path.open("rb") as content:
                    shard.addfile(member, content)


def _add_bytes(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def _sample(each: ExportedObject) -> bytes:
    sample: dict[str, Any] = {"uri": each.uri, **{name: each.rows[-1][name] for name in OBJECT_FACTS}}
    sample["enrichments"] = [{name: row[name] for name in ROW_FIELDS if row[name] is not None} for row in each.rows]
    return json.dumps(sample, ensure_ascii=False, allow_nan=False).encode()


def suffix_of(path: Path, each: ExportedObject) -> str:
    """The suffix of a file's format, by its bytes; by which readers choose their decoder."""
    import filetype

    found = filetype.guess_extension(str(path))
    return str(found) if found else ("mp4" if each.is_video else "jpg")
