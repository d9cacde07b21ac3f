"""Two results of one object side by side: what differs between them is marked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Final

import polars as pl
from markupsafe import Markup

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.infra.gallery.panels import panel
from sightflow.infra.gallery.visible_text import visible_html
from sightflow.schemas.enrichment import NAME_PATTERN
from sightflow.schemas.geometry import Box

SAME_PLACE_IOU: Final = 0.5
_LONGEST_COMPARED: Final = 4000
_MOST_REGIONS: Final = 300


@dataclass(frozen=True)
class Side:
    """One of the two: an enrichment by its name, at a version of the catalog or as it is now (`caption@12`)."""

    enrichment: str
    version: int | None = None

    @classmethod
    def of(cls, text: str) -> Side | None:
        """What an address names; None if it names nothing."""
        name, _, version = text.strip().partition("@")
        if not re.fullmatch(NAME_PATTERN, name) or not re.fullmatch(r"\d{0,18}", version):
            return None
        return cls(name, int(version) if version else None)

    def __str__(self) -> str:
        return self.enrichment if self.version is None else f"{self.enrichment}@{self.version}"


def differing(catalog: Catalog, left: Side, right: Side, prefix: str, offset: int, limit: int) -> tuple[list[str], int]:
    """The objects whose two results differ, or of which one side has none: a page of them, and how many there are."""
    sides = [_results(catalog, side, prefix) for side in (left, right)]
    both = sides[0].join(sides[1], on="uri", how="full", coalesce=True, suffix="_right")
    found = catalog.read(both.filter(pl.col("result").ne_missing(pl.col("result_right"))).select("uri").sort("uri"))
    return found["uri"].slice(offset, limit).to_list(), found.height


def _results(catalog: Catalog, side: Side, prefix: str) -> pl.LazyFrame:
    """`uri` and a hash of the result of each row of a side."""
    rows = catalog.scan("enrichments", side.version).filter(pl.col("enrichment") == side.enrichment)
    if prefix:
        rows = rows.filter(pl.col("uri").str.starts_with(prefix))
    return rows.select("uri", result=pl.struct("text", "segments", "regions", "tracks", "extracted").hash())


def compared(left: Mapping[str, Any] | None, right: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """The panels of two rows, in which `only` numbers the shapes and names the fields that the other lacks.

    `marked` is the text with the words that the other does not have in a `mark`.
    """
    if left is None or right is None:
        return (None if left is None else panel(left)), (None if right is None else panel(right))
    rows, panels = (left, right), (panel(left), panel(right))
    only = _unmatched(rows[0].get("regions") or [], rows[1].get("regions") or [])
    texts = _marked(rows[0].get("text") or "", rows[1].get("text") or "")
    fields = [dict(each["fields"] or ()) for each in panels]
    for place, each in enumerate(panels):
        other = fields[1 - place]
        each["only"] = only[place]
        each["marked"] = texts[place]
        each["differing_fields"] = {path for path, value in fields[place].items() if other.get(path) != value}
        labels = {track["label"] for track in panels[1 - place]["tracks"]}
        each["only_tracks"] = {track["id"] for track in each["tracks"] if track["label"] not in labels}
    return panels[0], panels[1]


def _unmatched(left: Sequence[Any], right: Sequence[Any]) -> tuple[set[int], set[int]]:
    """The regions that have no partner of the same label in the same place (IoU of 0.5), each partner taken once."""
    left, right = left[:_MOST_REGIONS], right[:_MOST_REGIONS]
    pairs = [
        (overlap, i, k)
        for i, one in enumerate(left)
        for k, other in enumerate(right)
        if one["label"] == other["label"] and one["frame_index"] == other["frame_index"]
        if (overlap := _box(one).iou(_box(other))) >= SAME_PLACE_IOU
    ]
    alone = set(range(len(left))), set(range(len(right)))
    for _, i, k in sorted(pairs, reverse=True):
        if i in alone[0] and k in alone[1]:
            alone[0].discard(i)
            alone[1].discard(k)
    return alone


def _box(region: Mapping[str, Any]) -> Box:
    return Box(region["x_min"], region["y_min"], region["x_max"], region["y_max"])


def _marked(left: str, right: str) -> tuple[Markup, Markup]:
    """Two texts, each with the words that the other lacks marked."""
    words = [re.findall(r"\s+|[^\s]+", text[:_LONGEST_COMPARED]) for text in (left, right)]
    parts: tuple[list[Markup], list[Markup]] = ([], [])
    for change, a, b, c, d in SequenceMatcher(a=words[0], b=words[1], autojunk=False).get_opcodes():
        for side, text in enumerate(("".join(words[0][a:b]), "".join(words[1][c:d]))):
            shown = visible_html(text)
            parts[side].append(shown if change == "equal" or not text else Markup("<mark>{}</mark>").format(shown))
    return Markup("").join(parts[0]), Markup("").join(parts[1])
