"""The pages: each asks the index for its objects, and Delta for the whole rows of the few that it shows."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.infra.gallery.access import Guard
from sightflow.infra.gallery.differences import Side, compared, differing
from sightflow.infra.gallery.history import history_of
from sightflow.infra.gallery.media.media import PICTURE_SIDE, THUMBNAIL_SIDE, Media
from sightflow.infra.gallery.media.served_media import preview_response, video_response
from sightflow.infra.gallery.pages import ASSETS, media_facts, object_page, query, render
from sightflow.infra.gallery.panels import card, failures_of, name_of, rows_of
from sightflow.infra.gallery.search.filters import SORTS, Filter
from sightflow.infra.gallery.search.index import CatalogIndex
from sightflow.infra.gallery.sql_process import run_sql
from sightflow.schemas.failure import SightflowError

logger = logging.getLogger(__name__)

PAGE: Final = 48
PAIRS: Final = 8
_MOST_RUNS: Final = 200


class Gallery:
    """The pages of one catalog. `named`: the catalog and its endpoint as the command line had them, for SQL."""

    def __init__(self, catalog: Catalog, media: Media, index: CatalogIndex, named: tuple[str, str | None]) -> None:
        self.catalog, self.media, self.index, self._named = catalog, media, index, named

    @property
    def routes(self) -> list[Any]:
        """Of an application of Starlette's; the paths are relative to the secret."""
        return [
            Route("/", self.page(self.grid)),
            Route("/object", self.page(self.object)),
            Route("/compare", self.page(self.compare)),
            Route("/sql", self.page(self.sql)),
            Route("/runs", self.page(self.runs)),
            Route("/history", self.page(self.history)),
            Route("/thumbnail", self.page(self.thumbnail)),
            Route("/picture", self.page(self.picture)),
            Route("/video", self.page(self.video)),
            Mount("/assets", StaticFiles(directory=ASSETS)),
        ]

    def application(self, secret: str, more: list[Any] | None = None) -> Guard:
        """What a server runs: the pages behind the secret. `more`: routes of the review."""
        self._reviewing = bool(more)
        application = Starlette(routes=[*self.routes, *(more or [])])
        application.router.redirect_slashes = False  # to an address that would lack the secret
        return Guard(application, secret)

    _reviewing = False

    def page(self, answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """A page whose errors are told in words; it runs in a thread."""

        def answered(request: Request) -> Response:
            try:
                return answer(request)
            except SightflowError as error:
                return self.problem("It cannot be shown", str(error), 502)
            except Exception as error:  # rows that no writer of ours has checked may hold anything
                logger.debug("a page cannot be made", exc_info=True)
                said = f"What the catalog holds here is damaged: {type(error).__name__}. Look at it with SQL."
                return self.problem("It cannot be shown", said, 502)

        return answered

    def html(self, template: str, status: int = 200, **context: Any) -> Response:
        """A page of this catalog."""
        usual = {"catalog": self.catalog.uri, "progress": self.index.progress, "reviewing": self._reviewing}
        page = render(template, **{**usual, "version": self.index.progress.version, **context})
        return HTMLResponse(page.encode("utf-8", "backslashreplace"), status, {"Cache-Control": "no-store"})

    def problem(self, title: str, message: str, status: int) -> Response:
        """A page that says what is wrong."""
        return self.html("problem.html", status, title=title, message=message)

    # --- the pages ------------------------------------------------------------------------------

    def grid(self, request: Request) -> Response:
        self.index.follow()
        wanted = Filter.of(request.query_params)
        total = self.index.count(wanted)
        pages = max(math.ceil(total / PAGE), 1)
        page = min(natural(request.query_params.get("page")) or 1, pages)
        offset = (page - 1) * PAGE
        uris = self.index.page(wanted, offset, PAGE)
        rows = self.index.rows(uris)
        cards = []
        for place, uri in enumerate(uris):
            href = f"object?{query({'uri': uri, **wanted.query, 'place': offset + place})}"
            cards.append({**card(uri, rows[uri]), "href": href, "thumb": f"thumbnail?{query({'uri': uri})}"})

        def turned(to: int) -> str | None:
            return f"./?{query({**wanted.query, 'page': to if to > 1 else ''})}" if 0 < to <= pages else None

        return self.html(
            "grid.html", title="Objects", at="grid", filter=wanted, facets=self.index.facets(), sorts=SORTS,
            cards=cards, total=total, page=page, pages=pages, previous=turned(page - 1), next=turned(page + 1),
            here=f"./?{request.url.query}",
        )  # fmt: skip

    def object(self, request: Request) -> Response:
        self.index.follow()
        wanted, given = Filter.of(request.query_params), request.query_params
        place = natural(given.get("place"))
        uri = given.get("uri", "")
        if not uri and place is not None:
            found = self.index.page(wanted, place, 1)
            if not found:
                return RedirectResponse(f"./?{query(wanted.query)}", 303)
            return RedirectResponse(f"object?{query({'uri': found[0], **wanted.query, 'place': place})}", 303)
        version = natural(given.get("version"))
        rows = rows_of(self.catalog, uri, version)
        failures = failures_of(self.catalog, uri, rows) if version is None else []
        if not rows and not failures:
            return self.problem("Not in the catalog", f"The catalog has nothing about {uri}.", 404)
        steps: dict[str, str | None] = {"previous": None, "next": None}
        if place is not None:
            steps["previous"] = f"object?{query({**wanted.query, 'place': place - 1})}" if place else None
            if self.index.page(wanted, place + 1, 1):
                steps["next"] = f"object?{query({**wanted.query, 'place': place + 1})}"
        back = query({**wanted.query, "page": place // PAGE + 1 if place and place >= PAGE else ""})
        return self.html(
            "object.html", at="object", **object_page(uri, rows, failures, self.source(uri, rows)),
            previous=steps["previous"], next=steps["next"], back=f"./?{back}",
            notice="" if version is None else f"This is version {version} of the catalog.",
        )  # fmt: skip

    def compare(self, request: Request) -> Response:
        given = request.query_params
        sides = Side.of(given.get("left", "")), Side.of(given.get("right", ""))
        prefix, uri, page = given.get("prefix", ""), given.get("uri", ""), natural(given.get("page")) or 1
        context: dict[str, Any] = {"pairs": [], "total": None, "previous": None, "next": None}
        left, right = sides
        if left and uri and not given.get("right"):  # from an object's page: what it was before the last commit
            right = Side(left.enrichment, max((self.index.progress.version or 0) - 1, 0))
        if left and right:
            if uri:
                found, context["total"] = [uri], None
            else:
                offset = (page - 1) * PAIRS
                found, context["total"] = differing(self.catalog, left, right, prefix, offset, PAIRS)
                kept = {"left": left, "right": right, "prefix": prefix}
                context["previous"] = f"compare?{query({**kept, 'page': page - 1})}" if page > 1 else None
                if offset + PAIRS < context["total"]:
                    context["next"] = f"compare?{query({**kept, 'page': page + 1})}"
            context["pairs"] = [self._pair(each, left, right, place) for place, each in enumerate(found)]
        names = [name for name, _ in self.index.facets()["enrichment"]]
        versions = self.index.progress.version or 0
        offered = [*names, *(f"{name}@{max(versions - 1, 0)}" for name in names)]
        return self.html(
            "compare.html", title="Side by side", at="compare", left=given.get("left", ""),
            right=given.get("right", "") or str(right or ""), uri=uri, prefix=prefix, sides=offered, **context,
        )  # fmt: skip

    def _pair(self, uri: str, left: Side, right: Side, place: int) -> dict[str, Any]:
        rows = [
            next(
                (row for row in rows_of(self.catalog, uri, side.version) if row["enrichment"] == side.enrichment), None
            )
            for side in (left, right)
        ]
        panels = compared(*rows)
        there = [row for row in rows if row is not None]
        return {
            "name": name_of(uri),
            "href": f"object?{query({'uri': uri})}",
            "media": {**media_facts(uri, there), **self.source(uri, there)},
            "sides": [
                {"title": str(side), "panel": panel, "id": f"pair-{place}-{which}"}
                for which, (side, panel) in enumerate(zip((left, right), panels, strict=True))
            ],
        }

    def sql(self, request: Request) -> Response:
        sql = request.query_params.get("sql", "").strip()
        answer = run_sql(*self._named, sql) if sql else None
        usual = "SELECT uri FROM catalog LIMIT 20"
        return self.html("sql.html", title="SQL", at="sql", sql=sql or usual, answer=answer)

    def runs(self, request: Request) -> Response:
        runs = self.catalog.scan("runs").drop("report").sort("started_at", descending=True).limit(_MOST_RUNS)
        return self.html("runs.html", title="Runs", at="runs", runs=self.catalog.read(runs).to_dicts())

    def history(self, request: Request) -> Response:
        uri = request.query_params.get("uri", "")
        versions = history_of(self.catalog, uri)
        title = f"History of {name_of(uri)}"
        return self.html("history.html", title=title, at="object", uri=uri, name=name_of(uri), versions=versions)

    # --- media ----------------------------------------------------------------------------------

    def source(self, uri: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Where a page finds the media of an object."""
        known = self.index.newest_version(uri)
        kind = next((row["media_kind"] for row in rows), known[1] if known else None)
        address = query({"uri": uri})
        if kind == "video":
            return {
                "kind": "video",
                "src": f"video?{address}",
                "still": f"picture?{address}",
            }
        return {"kind": "image", "src": f"picture?{address}"}

    def thumbnail(self, request: Request) -> Response:
        return self._preview(request, THUMBNAIL_SIDE)

    def picture(self, request: Request) -> Response:
        return self._preview(request, PICTURE_SIDE)

    def _preview(self, request: Request, side: int) -> Response:
        uri = request.query_params.get("uri", "")
        if (known := self.index.known(uri)) is None:
            return Response("not in the catalog", 404, media_type="text/plain")
        seconds = _seconds(request.query_params.get("t"))
        kind = self.media.kind(uri, known[1])
        return preview_response(self.media.preview(uri, known[0], kind, side, seconds))

    def video(self, request: Request) -> Response:
        uri = request.query_params.get("uri", "")
        if (known := self.index.known(uri)) is None:
            return Response("not in the catalog", 404, media_type="text/plain")
        return video_response(self.media, uri, known[0], request.headers.get("range"))


def natural(text: str | None) -> int | None:
    """A number of an address; None for what is none."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
