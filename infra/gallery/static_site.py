"""The gallery as a folder of files: the same pages, previews in them, and no request to anywhere.

    index.html      the grid, filtered by a script over one index
    index.js        the index: what the grid needs of every object
    objects/        a page an object
    media/ thumbnails/ assets/

It works from a disk (file:), where a browser loads classic scripts and no modules.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.infra.gallery.media.media import THUMBNAIL_SIDE, Media, image_type
from sightflow.infra.gallery.pages import ASSETS, object_page, render
from sightflow.infra.gallery.panels import card, open_cases
from sightflow.infra.gallery.search.filters import SORTS, Filter
from sightflow.infra.gallery.search.index import CatalogIndex
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Failure, SightflowError, SpecError, StoreError

logger = logging.getLogger(__name__)

MOST_OBJECTS: Final = 10_000
PICTURE_SIDE: Final = 1600
MOST_VIDEO_BYTES: Final = 64 * 2**20
_MARK: Final = "made-by-sightflow-gallery"
_PAGE: Final = 48
_AT_ONCE: Final = 200
_THREADS: Final = 4
_LONGEST_TEXT: Final = 600
_ROW_COLUMNS: Final = ("enrichment", "capability", "system", "cause")


@dataclass(frozen=True)
class Written:
    """What was written: the page to open, the objects on it, and how many of them have no picture."""

    index: Path
    objects: int
    without_picture: int


def write_gallery(
    catalog: Catalog,
    media: Media,
    index: CatalogIndex,
    uris: Sequence[str],
    folder: Path,
    told: Callable[[int], None] = lambda done: None,
) -> Written:
    """Write the pages of some objects, in this order, into a folder; `told` hears how many there are.

    An earlier gallery there is replaced. Raises SpecError if the folder holds other files, StoreError if the catalog
    cannot be read, SightflowError if the folder cannot be written; an object whose media cannot be had is shown without
    a picture.
    """
    try:
        return _write_gallery(catalog, media, index, uris, folder, told)
    except OSError as error:
        raise SightflowError(
            f"the gallery cannot be written into {folder}: {error.strerror or error}; make room there, or choose "
            "another folder with --out"
        ) from None


def _write_gallery(
    catalog: Catalog,
    media: Media,
    index: CatalogIndex,
    uris: Sequence[str],
    folder: Path,
    told: Callable[[int], None],
) -> Written:
    _clear(folder)
    for name in ("objects", "media", "thumbnails"):
        (folder / name).mkdir()
    shutil.copytree(ASSETS, folder / "assets")
    site = _Site(catalog, media, folder, len(uris))
    cards: list[dict[str, Any]] = []
    rows_of_cards: list[list[dict[str, Any]]] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(uris), _AT_ONCE):
            chunk = uris[start : start + _AT_ONCE]
            known = index.rows(chunk)
            whole = _rows(catalog, "enrichments", chunk, "enrichment")
            failed = _rows(catalog, "quarantine", chunk, "enrichment")
            first = len(cards)
            jobs = [
                pool.submit(site.write_object, first + place, uri, known[uri], whole.get(uri, []), failed.get(uri, []))
                for place, uri in enumerate(chunk)
            ]
            for uri, job in zip(chunk, jobs, strict=True):
                cards.append({**card(uri, known[uri]), **job.result()})
                rows_of_cards.append(known[uri])
                told(len(cards))
    (folder / "index.js").write_text(f"window.SIGHTFLOW_INDEX = {_index(cards, rows_of_cards)};\n", encoding="utf-8")
    page = render(
        "grid.html", title="Objects", static=True, home="index.html", catalog=catalog.uri, filter=Filter(), sorts=SORTS,
        version=index.progress.version, facets=_facets(rows_of_cards), cards=cards[:_PAGE], total=len(cards), page=1,
        pages=max(-(-len(cards) // _PAGE), 1), previous=None, next=None,
    )  # fmt: skip
    _write(folder / "index.html", page)
    return Written(folder / "index.html", len(cards), sum(not each["thumb"] for each in cards))


class _Site:
    """Writes the files of one object after another."""

    def __init__(self, catalog: Catalog, media: Media, folder: Path, total: int) -> None:
        self._catalog, self._media, self._folder, self._total = catalog, media, folder, total

    def write_object(
        self, place: int, uri: str, known: list[dict[str, Any]], rows: list[Any], failed: list[Any]
    ) -> dict[str, Any]:
        """Write an object's page and media; return `href` and `thumb`, as the grid links to them."""
        try:
            media, thumb = self._write_media(place, uri, known)
        except StoreError as error:
            media, thumb = {"missing": str(error)}, ""

        def page_of(rows: list[Any], failed: list[Any], notice: str = "") -> str:
            return render(
                "object.html", static=True, root="../", home="index.html", catalog=self._catalog.uri, notice=notice,
                **object_page(uri, rows, open_cases(failed, rows), media), back="../index.html",
                previous=f"{place:05d}.html" if place else None,
                next=f"{place + 2:05d}.html" if place + 1 < self._total else None,
            )  # fmt: skip

        try:
            page = page_of(rows, failed)
        except Exception as error:  # rows that no writer of ours has checked may hold anything
            logger.debug("what the catalog holds of an object cannot be shown", exc_info=True)
            page = page_of([], [], f"What the catalog holds of it is damaged: {type(error).__name__}.")
        _write(self._folder / f"objects/{place + 1:05d}.html", page)
        return {"href": f"objects/{place + 1:05d}.html", "thumb": thumb}

    def _write_media(self, place: int, uri: str, known: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
        """What the page shows of an object, and its thumbnail; an empty one if there is none."""
        published = [row for row in known if row["cause"] is None] or known
        if not published:
            return {}, ""
        version = published[-1]["object_version"]
        kind = self._media.kind(uri, published[-1]["media_kind"])
        preview = self._media.preview(uri, version, kind, PICTURE_SIDE)
        if isinstance(preview, Failure):
            return {"kind": str(kind), "missing": f"{preview.cause}: {preview.message}"}, ""
        picture = f"media/{place + 1:05d}.{_suffix(preview)}"
        (self._folder / picture).write_bytes(preview)
        thumb = f"thumbnails/{place + 1:05d}.jpg"
        (self._folder / thumb).write_bytes(_smaller(preview))
        shown: dict[str, Any] = {"kind": "image", "src": f"../{picture}"}
        if kind is MediaKind.VIDEO and (video := self._write_video(place, uri, version)):
            shown = {"kind": "video", "src": f"../{video}"}
        return shown, thumb

    def _write_video(self, place: int, uri: str, version: str) -> str | None:
        """A copy of a video that is not too large for a folder to be handed around."""
        name = self._media.video_type(uri)
        if name is None or self._media.size(version) > MOST_VIDEO_BYTES:
            return None
        found = self._media.download(uri, version)
        if isinstance(found, Failure):
            return None
        video = f"media/{place + 1:05d}.{'webm' if name == 'video/webm' else 'mp4'}"
        shutil.copyfile(found, self._folder / video)
        return video


def _rows(catalog: Catalog, name: Any, uris: Sequence[str], order: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of a table by the URI of their object."""
    found = catalog.read(catalog.scan(name).filter(pl.col("uri").is_in(list(uris)))).sort(order)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in found.iter_rows(named=True):
        rows.setdefault(row["uri"], []).append(row)
    return rows


def _index(cards: Sequence[dict[str, Any]], rows: Sequence[list[dict[str, Any]]]) -> str:
    """The index as JSON: names once, and of each object what it shows, with its rows."""
    names: dict[str, dict[str, int]] = {column: {} for column in (*_ROW_COLUMNS, "label")}

    def number(column: str, value: str | None) -> int:
        return -1 if value is None else names[column].setdefault(value, len(names[column]))

    objects = []
    for each, own in zip(cards, rows, strict=True):
        objects.append(
            [
                each["uri"], each["href"], each["thumb"], each["alt"], each["kind"], int(each["failed"]),
                [
                    [
                        *(number(column, row[column]) for column in _ROW_COLUMNS),
                        f"{row['made_at']:%Y-%m-%dT%H:%M:%S}" if row["made_at"] else "",
                        row["cost"] or 0,
                        row["low"],
                        row["high"],
                        (row["text"] or "")[:_LONGEST_TEXT],
                        [[number("label", label), score] for label, score in row["marks"]],
                        row["run_id"],
                    ]
                    for row in own
                ],
            ]
        )  # fmt: skip
    text = json.dumps({"names": {column: list(found) for column, found in names.items()}, "objects": objects})
    return text.replace("<", "\\u003c")


def _facets(rows: Sequence[list[dict[str, Any]]]) -> dict[str, list[tuple[str, int]]]:
    """The names there are among these objects, as `CatalogIndex.facets` gives those of a catalog."""
    flat = [row for own in rows for row in own]
    found = {
        column: Counter(row[column] for row in flat if row[column]) for column in (*_ROW_COLUMNS, "media_kind")
    } | {"label": Counter(label for row in flat for label in row["labels"])}
    return {column: sorted(counts.items()) for column, counts in found.items()}


def _clear(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARK).exists():
            raise SpecError(f"{folder} holds files that are no gallery of ours; choose another folder")
        for each in folder.iterdir():  # all but the mark, by which one that is killed now is replaced again
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            elif each.name != _MARK:
                each.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()


def _write(path: Path, page: str) -> None:
    path.write_bytes(page.encode("utf-8", "backslashreplace"))


def _suffix(content: bytes) -> str:
    return "png" if image_type(content) == "image/png" else "jpg"


def _smaller(content: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGB")
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=82)
    return written.getvalue()
