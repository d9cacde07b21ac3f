"""A catalog in which every text is written against the page that shows it."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image, PngImagePlugin

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.infra.demo.moving_scenes import draw_clip, write_video
from sightflow.infra.gallery.app import Gallery
from sightflow.infra.gallery.media.media import Media
from sightflow.infra.gallery.media.preview_cache import PreviewCache
from sightflow.infra.gallery.review.review import Review
from sightflow.infra.gallery.search.index import CatalogIndex
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from sightflow.schemas.tables.quarantine import QUARANTINE_SCHEMA

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "</script><script>alert(1)</script>",
    "\x1b[31mred\x1b]0;title\x07",
    "abc\u202egnp.exe\u2066x",
    "' onmouseover='alert(1)",
    "<svg/onload=alert(1)>",
    "<!--<script>",
)
"""Markup, handlers, addresses that run, template syntax, ANSI sequences, bidirectional controls."""
ALL = " ".join(HOSTILE)


def hostile_catalog(folder: Path) -> Catalog:
    """A row of every kind and a failure, on files with hostile names; one picture has metadata that are private."""
    media = folder / "media"
    media.mkdir(parents=True)
    private = PngImagePlugin.PngInfo()
    private.add_text("Comment", "GPS-of-home")
    names = ["<img src=x onerror=alert(1)>.png", "{{ 7*7 }}\u202egnp.png", "changed.png", "\x1b[2J'\";.png"]
    for place, name in enumerate(names):
        image = io.BytesIO()
        Image.new("RGB", (120, 90), (40 * place, 90, 120)).save(image, "PNG", pnginfo=private)
        (media / name).write_bytes(image.getvalue())
    write_video(draw_clip(0), media / "javascript:alert(1).mp4")
    catalog = Catalog(uri=f"file://{folder}/<b>catalog</b>")
    store = ObjectStore()
    versions = dict(store.inventory([f"file://{media}/**"]).select("uri", "object_version").iter_rows())
    box = {"x_min": 10.0, "y_min": 10.0, "x_max": 50.0, "y_max": 60.0, "score": 0.5}
    region = {"label": ALL, **box, "mask": None, "frame_index": None, "seconds": None}
    point = {"frame_index": 0, "seconds": 0.0, **box, "gap": False}
    results: dict[str, dict[str, Any]] = {
        "caption": {"capability": "image_captioning", "text": ALL},
        "again": {"capability": "image_captioning", "text": f"{ALL} once more"},
        "objects": {"capability": "object_detection", "regions": [region]},
        "fields": {"capability": "structured_extraction", "extracted": json.dumps(dict.fromkeys(HOSTILE, ALL))},
        "tracks": {"capability": "object_tracking", "tracks": [{"track_id": 1, "label": ALL, "points": [point]}]},
    }
    rows = [
        {
            "uri": uri, "enrichment": name, "media_kind": "video" if uri.endswith("mp4") else "image",
            "fingerprint": f"{name}-fingerprint", "object_version": version, "recipe": ALL, "sha256": "0" * 64,
            "width": 120, "height": 90, "parameters": json.dumps({"question": ALL, ALL: [ALL]}), "system": ALL,
            "model_id": ALL, "model_revision": ALL, "route": [ALL, ALL], "raw_reply": ALL, "input_tokens": 1,
            "output_tokens": 1, "cost_usd": 1.5, "schema_version": 1, "run_id": ALL, "inferred_at": datetime.now(UTC),
            **({"duration": 4.0, "frame_rate": 8.0} if uri.endswith("mp4") else {}), **result,
        }
        for uri, version in versions.items()
        for name, result in results.items()
        if (name == "tracks") == uri.endswith("mp4")
    ]  # fmt: skip
    catalog.publish(pl.DataFrame(rows, schema=CATALOG_SCHEMA))
    failed = {
        "uri": f"file://{media}/{HOSTILE[0]}", "enrichment": "caption", "capability": "image_captioning",
        "fingerprint": "other", "object_version": "1-2", "recipe": "r", "cause": "malformed", "stage": "infer",
        "message": ALL, "attempts": 2, "raw_reply": ALL, "system": ALL, "model_id": ALL, "route": [ALL],
        "cost_usd": 0.0, "run_id": ALL, "failed_at": datetime.now(UTC),
    }  # fmt: skip
    catalog.quarantine(pl.DataFrame([failed], schema=QUARANTINE_SCHEMA))
    return catalog


@contextmanager
def reviewed(catalog: Catalog, previews: Path, secret: str) -> Iterator[Any]:
    """The application of `sightflow review` over a catalog, its index open meanwhile."""
    index = CatalogIndex(catalog)
    pages = Gallery(
        catalog, Media(ObjectStore(), catalog.uri, cache=PreviewCache(previews)), index, (catalog.uri, None)
    )
    asked = [Enrichment(capability="captioning", name="caption"), Enrichment(capability="detection", name="objects")]
    yield pages.application(secret, Review(pages, asked, "ann").routes)
    index.close()
