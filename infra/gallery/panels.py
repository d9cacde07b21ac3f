"""What a page shows of the rows of one object: a panel an enrichment, a case a failure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import polars as pl

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.infra.gallery.drawing import colour_of, shapes_of, tracks_of
from sightflow.infra.gallery.visible_text import visible

_MOST_ROWS: Final = 200
_LONGEST_TEXT: Final = 20_000
_MOST_FIELDS: Final = 300
_LONGEST_IN_CARD: Final = 160
_MOST_LABELS_IN_CARD: Final = 6


def rows_of(catalog: Catalog, uri: str, version: int | None = None) -> list[dict[str, Any]]:
    """The published rows of an object, at a version of the catalog or now. Raises StoreError."""
    found = catalog.scan("enrichments", version).filter(pl.col("uri") == uri).limit(_MOST_ROWS)
    return catalog.read(found).sort("enrichment").to_dicts()


def failures_of(catalog: Catalog, uri: str, published: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is in quarantine of an object and has not been published since. Raises StoreError."""
    found = catalog.scan("quarantine").filter(pl.col("uri") == uri).limit(_MOST_ROWS)
    return open_cases(catalog.read(found).sort("enrichment").to_dicts(), published)


def open_cases(cases: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The failures of an object that none of its rows has settled, as a page shows them."""
    settled = {(row["enrichment"], row["fingerprint"]) for row in published}
    return [
        {**_shortened(case), "model_revision": None, "inferred_at": case["failed_at"], "asked": []}
        for case in cases
        if (case["enrichment"], case["fingerprint"]) not in settled
    ]


def panel(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as its panel shows it."""
    return {
        **_shortened(row),
        "asked": _asked(row["parameters"]),
        "shapes": shapes_of(row["regions"], row["width"], row["height"]),
        "tracks": tracks_of(row["tracks"], row["width"], row["height"]),
        "fields": fields_of(row["extracted"]),
        "has_regions": row["regions"] is not None,
        "has_tracks": row["tracks"] is not None,
    }


def _shortened(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose texts are of a length that a page bears."""
    return {
        name: f"{value[:_LONGEST_TEXT]} …" if isinstance(value, str) and len(value) > _LONGEST_TEXT else value
        for name, value in row.items()
    }


def _asked(parameters: str | None) -> list[tuple[str, str]]:
    """What was asked beyond the capability: names and values."""
    try:
        asked = json.loads(parameters or "{}")
    except (ValueError, RecursionError):
        return []
    if not isinstance(asked, dict):
        return []
    return [(str(name), _as_text(value)) for name, value in asked.items()]


def _as_text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def fields_of(extracted: str | None) -> list[tuple[str, str]] | None:
    """Extracted fields, each with its path; None where there are none."""
    if extracted is None:
        return None
    try:
        found = json.loads(extracted)
    except (ValueError, RecursionError):
        return [("", extracted[:_LONGEST_TEXT])]
    flat: list[tuple[str, str]] = []
    pending: list[tuple[str, Any]] = [("", found)]
    while pending and len(flat) < _MOST_FIELDS:
        path, value = pending.pop()
        if isinstance(value, dict) and value:
            pending += [(f"{path}.{name}".strip("."), each) for name, each in reversed(value.items())]
        elif isinstance(value, list) and value:
            pending += [(f"{path}[{place}]", each) for place, each in reversed(list(enumerate(value)))]
        else:
            flat.append((path, _as_text(value)[:_LONGEST_TEXT]))
    return flat


def name_of(uri: str) -> str:
    """The last part of an address, for a heading."""
    return uri.rstrip("/").rpartition("/")[2] or uri


def card(uri: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An object in the grid, from what the index holds of it."""
    lines = []
    for row in rows:
        labels = Counter(row["labels"])
        lines.append(
            {
                "enrichment": row["enrichment"],
                "cause": row["cause"],
                "text": _first(row["text"]) if not labels else "",
                "labels": [
                    (label, count, colour_of(label)) for label, count in labels.most_common(_MOST_LABELS_IN_CARD)
                ],
                "more": max(len(labels) - _MOST_LABELS_IN_CARD, 0),
            }
        )
    kinds = [row["media_kind"] for row in rows if row["media_kind"]]
    return {
        "uri": uri,
        "name": name_of(uri),
        "lines": sorted(lines, key=lambda line: (line["cause"] is not None, line["enrichment"])),
        "alt": alternative(uri, [line for line in lines if line["cause"] is None]),
        "kind": kinds[-1] if kinds else "",
        "failed": all(row["cause"] is not None for row in rows),
    }


def alternative(uri: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """What a screen reader says of a picture: a caption where there is one, else the labels, else the name."""
    texts = [line["text"] for line in lines if line.get("text")]
    labels = [label for line in lines for label, *_ in line.get("labels", ())]
    return visible(texts[0] if texts else ", ".join(dict.fromkeys(labels)) or name_of(uri))


def _first(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= _LONGEST_IN_CARD else f"{text[:_LONGEST_IN_CARD]} …"


def price(dollars: float | None) -> str:
    """US dollars; nothing is `free`."""
    if not dollars:
        return "free"
    return f"${dollars:,.2f}" if dollars >= 1 else f"${dollars:.4g}"


def moment(at: datetime | None) -> str:
    """A time in UTC, to the second."""
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"
