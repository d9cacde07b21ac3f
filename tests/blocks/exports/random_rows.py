"""Random rows of a catalog that pass its checks, with names, labels and texts of any kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from sightflow.blocks.exports.contract import Export, ExportFormat
from sightflow.blocks.exports.export import of_one_enrichment
from sightflow.blocks.exports.exported import LeftOut
from sightflow.blocks.exports.folder import ExportFolder
from sightflow.blocks.exports.media_files import MediaFiles
from sightflow.blocks.exports.selected_rows import Wanted, keep_rows, kept_rows, row_schema
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.masks import encode_mask
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from tests.schemas.tables.test_catalog import SCHEMA, row

Row = dict[str, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
TRICKY = ["=1+1", "'quoted", '"', "a,b", "line\nbreak", "{}", "[1]", "{{ x }}", "<b>&amp;", "é", "e\u0301"]
TRICKY += ["\u2028.", "\x85.", "\x00"]
LABELS = st.one_of(st.sampled_from(["dog", "cat", "no", "null", "1", *TRICKY]).filter(str.strip), TEXTS)
KEYS = st.one_of(
    st.sampled_from(
        ["a.jpg", "A.jpg", "a.png", "a/b.jpg", "a.jpg/b.jpg", "../up.jpg", "CON.jpg", ".hidden", "x" * 300]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=8),
    st.from_regex(r"[a-c]{1,2}(/[a-c]{1,2}){0,2}\.(jpg|png)", fullmatch=True),
)
PARAMETERS = json.dumps({"schema": SCHEMA})
SCORES = st.one_of(st.none(), st.floats(0, 1))


def edges(draw: Draw, size: int) -> tuple[float, float]:
    """Two numbers in order, at least a thousandth apart, inside 0..size."""
    low = draw(st.floats(0, size - 0.01))
    return low, draw(st.floats(low + 0.001, size))


def box(draw: Draw, width: int, height: int) -> Row:
    (x_min, x_max), (y_min, y_max) = edges(draw, width), edges(draw, height)
    return {"x_min": x_min, "y_min": y_min, "x_max": x_max, "y_max": y_max}


def mask(draw: Draw, width: int, height: int) -> str:
    bits = draw(st.integers(1, 2 ** (width * height) - 1))
    bitmap = [bool(bits >> place & 1) for place in range(width * height)]
    return encode_mask(np.array(bitmap).reshape(height, width))


def region(draw: Draw, about: Row, with_mask: bool, timed: bool) -> Row:
    time = {"frame_index": 3, "seconds": 0.1} if timed else {"frame_index": None, "seconds": None}
    made = mask(draw, about["width"], about["height"]) if with_mask else None
    return {
        "label": draw(LABELS),
        **box(draw, about["width"], about["height"]),
        "score": draw(SCORES),
        "mask": made,
        **time,
    }


def track(draw: Draw, track_id: int, about: Row, with_masks: bool) -> Row:
    indices = sorted(draw(st.sets(st.integers(0, 40), min_size=1, max_size=4)))
    points = [
        {
            "frame_index": index,
            "seconds": index / 25,
            **box(draw, about["width"], about["height"]),
            "score": draw(SCORES),
            "gap": (gap := draw(st.booleans())),
            "mask": mask(draw, about["width"], about["height"]) if with_masks and not gap else None,
        }
        for index in indices
    ]
    return {"track_id": track_id, "label": draw(LABELS), "points": points}


def rows_of_object(draw: Draw, uri: str) -> list[Row]:
    is_video = draw(st.booleans())
    facts: Row = {
        "uri": uri,
        "media_kind": "video" if is_video else "image",
        "width": draw(st.integers(1, 9)),
        "height": draw(st.integers(1, 9)),
        "duration": 2.0 if is_video else None,
        "frame_rate": 25.0 if is_video else None,
        "regions": None,
    }
    some: list[Row] = []
    if draw(st.booleans()):
        made = [region(draw, facts, draw(st.booleans()), is_video) for _ in range(draw(st.integers(0, 2)))]
        some.append(row(**facts | {"regions": made}))
    if draw(st.booleans()) and not is_video:
        made = [region(draw, facts, True, False) for _ in range(draw(st.integers(0, 2)))]
        some.append(row(**facts | {"enrichment": "masks", "capability": "segmentation", "regions": made}))
        some.append(row(**facts | {"enrichment": "caption", "capability": "image_captioning", "text": draw(TEXTS)}))
        fields = {"enrichment": "fields", "capability": "structured_extraction", "extracted": '{"total": 1.5}'}
        some.append(row(**facts | fields | {"parameters": PARAMETERS}))
    if is_video or not some:
        masks = draw(st.booleans())
        tracks = [track(draw, number, facts, masks) for number in range(1, draw(st.integers(1, 3)))]
        asked = {"enrichment": "tracks", "capability": "object_tracking", "tracks": tracks}
        asked |= {"parameters": json.dumps({"labels": ["dog"], "masks": True})} if masks else {}
        some.append(row(**facts | asked) if is_video else row(**facts | {"regions": []}))
    return some


@st.composite
def catalogs(draw: Draw) -> list[Row]:
    """The rows of some objects, in the order of an export."""
    keys = sorted(draw(st.sets(KEYS, min_size=1, max_size=4)), key=str.encode)
    found = [each for key in keys for each in rows_of_object(draw, f"s3://b/{key}")]
    return sorted(found, key=lambda each: (each["uri"].encode(), each["enrichment"]))


def write(rows: Sequence[Row], format: ExportFormat, out: Path, *enrichments: str) -> LeftOut:
    """Write rows by a format, without a catalog, and leave the folder as an export that is done leaves it."""
    wanted = Wanted("enrichments", "", enrichments)
    chosen = [each for each in rows if not enrichments or each["enrichment"] in enrichments]
    folder, left_out = ExportFolder(out, {"format": format.name}), LeftOut()
    frame = pl.DataFrame(chosen, schema=CATALOG_SCHEMA)
    with folder.opened():
        batches = (part.select(row_schema(wanted, format.all_columns).keys()) for part in frame.iter_slices(2))
        keep_rows(
            batches,
            (chosen[0]["uri"], chosen[-1]["uri"]),
            wanted,
            format.all_columns,
            folder,
            0,
            format.refused_folders,
        )
        selected = of_one_enrichment(kept_rows(wanted, folder, left_out), format, left_out)
        format.write(Export(selected, folder, MediaFiles(ObjectStore(), folder, "link", 1), left_out))
        folder.finish({})
    return left_out
