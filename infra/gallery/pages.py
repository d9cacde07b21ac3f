"""The templates and what they are given: the same for the pages that are served and for those that are written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sightflow.infra.gallery.panels import alternative, moment, name_of, panel, price
from sightflow.infra.gallery.visible_text import visible, visible_html

FOLDER: Final = Path(__file__).parent
ASSETS: Final = FOLDER / "assets"
_LONGEST_CELL: Final = 400
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


@cache
def environment() -> Environment:
    """Jinja's, which escapes whatever comes out of the catalog, and fails where a template asks for what is not."""
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        visible=visible,
        visible_html=visible_html,
        price=price,
        moment=moment,
        query=query,
        cell=_cell,
        script_json=_script_json,
        spaced=lambda text: visible(text or "").replace("_", " "),
    )
    made.globals.update(tracks_json=_tracks_json)
    return made


def render(template: str, /, **context: Any) -> str:
    """A page. What `base.html` needs and is not given is empty."""
    usual = {
        "root": "", "home": "./", "static": False, "at": "", "progress": None, "version": None, "here": "",
        "reviewing": False, "notice": "",
    }  # fmt: skip
    return environment().get_template(template).render(**{**usual, **context})


def query(values: Mapping[str, Any]) -> str:
    """The query of an address; what is empty is left out."""
    return urlencode({name: str(value) for name, value in values.items() if value not in (None, "")}, quote_via=quote)


def object_page(
    uri: str, rows: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]], media: Mapping[str, Any]
) -> dict[str, Any]:
    """What `object.html` shows of an object, beside the addresses of its neighbours.

    `media`: `src`, `kind` and what else `drawing` asks for, but for what the rows say.
    """
    panels = [panel(row) for row in rows]
    return {
        "title": name_of(uri),
        "name": name_of(uri),
        "uri": uri,
        "panels": panels,
        "failures": failures,
        "layers": [each["enrichment"] for each in panels if each["shapes"] or each["tracks"]],
        "media": {**media_facts(uri, rows), **media},
    }


def media_facts(uri: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the rows of an object say of it; sizes in pixels of the upright original, those of its newest row."""
    newest: Mapping[str, Any] = max(rows, key=lambda row: row["inferred_at"] or _NEVER, default={})
    lines = [
        {"text": row["text"], "labels": [(region["label"],) for region in row["regions"] or row["tracks"] or ()]}
        for row in rows
    ]
    return {
        "width": newest.get("width"),
        "height": newest.get("height"),
        "duration": newest.get("duration"),
        "frame_rate": newest.get("frame_rate"),
        "alt": alternative(uri, lines),
        "src": None,
        "kind": newest.get("media_kind") or "image",
        "still": None,
        "missing": None,
    }


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]} …"


def _tracks_json(panels: Sequence[Mapping[str, Any]]) -> Markup:
    """The tracks of some panels, by enrichment."""
    return _script_json({each["enrichment"]: each["tracks"] for each in panels if each and each["has_tracks"]})


def _script_json(value: Any) -> Markup:
    """JSON that can stand in a script element: no `<`, no end of it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704
