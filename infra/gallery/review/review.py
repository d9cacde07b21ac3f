"""Review: a person accepts or corrects what was said, and each word of theirs is a label before it is shown as saved.

A save is a commit of the table `labels`, made for the revision that the page began with. Who comes second is told so
and is shown both; nothing is written over unseen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from sightflow.blocks.catalog.labels import LabelConflict, Labels, label_of_row
from sightflow.infra.gallery.app import Gallery, natural
from sightflow.infra.gallery.drawing import tracks_of
from sightflow.infra.gallery.pages import media_facts, query
from sightflow.infra.gallery.panels import failures_of, name_of, panel, rows_of
from sightflow.infra.gallery.review.review_queue import ORDERS, Queue
from sightflow.infra.gallery.search.index import Progress
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Failure, SightflowError
from sightflow.schemas.tables.catalog import BOX_FIELDS
from sightflow.schemas.tables.labels import RESULT_COLUMNS, InvalidLabel

_MOST_NAMES: Final = 300
_FLOATS: Final = frozenset({*BOX_FIELDS, "score", "seconds", "start", "end"})
_PATIENCE_SECONDS: Final = 120.0


class Review:
    """The pages with hands. `enrichments`: those of the spec; `labelled_by`: whose word it is."""

    def __init__(self, gallery: Gallery, enrichments: Sequence[Enrichment], labelled_by: str) -> None:
        self._gallery, self._labelled_by = gallery, labelled_by
        self._enrichments = {enrichment.name: enrichment for enrichment in enrichments}
        self._labels = Labels(gallery.catalog)
        self._items: tuple[tuple[Queue, Progress], list[tuple[str, str]]] | None = None

    @property
    def routes(self) -> list[Route]:
        """For `Gallery.application`."""
        return [
            Route("/review", self._gallery.page(self.show)),
            Route("/review/save", self.save, methods=["POST"]),
            Route("/review/undo", self.undo, methods=["POST"]),
        ]

    # --- the page -------------------------------------------------------------------------------

    def show(self, request: Request) -> Response:
        """One result, ready to be corrected; without `uri`, the one at `place` of the queue."""
        self._gallery.index.follow(_PATIENCE_SECONDS)  # an order is of all that there is
        given = request.query_params
        queue = Queue.of(given, list(self._enrichments))
        items = self._items_of(queue)
        place, uri, name = natural(given.get("place")) or 0, given.get("uri", ""), given.get("of", "")
        if not uri:
            found = self._next(queue, items, place)
            if found is None:
                return self._finished(queue, len(items))
            place = found
            uri, name = items[place]
            return RedirectResponse(_address(queue, place, uri=uri, of=name), 303)
        if "place" not in given and (uri, name) in items:
            place = items.index((uri, name))
        if name not in self._enrichments:
            return self._gallery.problem("Not in the spec", f"The spec has no enrichment {name}.", 404)
        row, notice = self._subject(uri, name)
        if row is None:
            return self._gallery.problem("It cannot be labelled", notice, 404)
        standing = self._labels.find(uri, name)
        if standing is not None and not _is_of(standing, row):
            notice = "It has changed since it was labelled: that label is kept, not used, and replaced when you save."
        source = self._gallery.source(uri, [row])
        return self._gallery.html(
            "review.html", title=f"Review {name_of(uri)}", at="review", uri=uri, name=name_of(uri), enrichment=name,
            notice=notice, queue=queue, orders=ORDERS, names=list(self._enrichments), place=place, total=len(items),
            media={**media_facts(uri, [row]), **source}, panels=[{**panel(row), "shapes": [], "tracks": []}],
            asked=panel(row)["asked"], document=self._document(uri, name, row, standing),
            previous=_address(queue, place - 1, **_key(items, place - 1)) if place else None,
            next=_address(queue, place + 1),
        )  # fmt: skip

    def _items_of(self, queue: Queue) -> list[tuple[str, str]]:
        """The keys of a queue, asked for once for each version of the catalog."""
        at = queue, self._gallery.index.progress
        if self._items is None or self._items[0] != at:
            self._items = at, queue.items(self._gallery.index)
        return self._items[1]

    def _next(self, queue: Queue, items: Sequence[tuple[str, str]], place: int) -> int | None:
        """The first place from here on that has no label yet, if the queue wants only these."""
        if not queue.open_only:
            return place if place < len(items) else None
        labelled = self._labelled()
        return next((at for at in range(place, len(items)) if items[at] not in labelled), None)

    def _labelled(self) -> set[tuple[str, str]]:
        """The keys whose label is of the object as it is."""
        usable, _ = self._labels.usable()
        return set(usable.select("uri", "enrichment").iter_rows())

    def _finished(self, queue: Queue, total: int) -> Response:
        return self._gallery.html(
            "review_done.html", title="Nothing left", at="review", queue=queue, orders=ORDERS, total=total,
            names=list(self._enrichments), first=f"review?{query({**queue.query, 'labelled': 'too'})}",
        )  # fmt: skip

    def _document(self, uri: str, name: str, row: Mapping[str, Any], standing: Mapping[str, Any] | None) -> Any:
        """What the page's script begins with."""
        capability = Capability(row["capability"])
        usable = standing is not None and _is_of(standing, row)
        begun = standing if usable and standing is not None else row
        facets = self._gallery.index.facets()["label"]
        return {
            "uri": uri,
            "enrichment": name,
            "capability": str(capability),
            "width": row["width"],
            "height": row["height"],
            "frameRate": row["frame_rate"],
            "objectVersion": row["object_version"],
            "fingerprint": row["fingerprint"],
            "expected": 0 if standing is None else standing["revision"],
            "savedBy": standing["labelled_by"] if usable and standing is not None else None,
            "result": {column: begun[column] for column in RESULT_COLUMNS},
            "blank": row["fingerprint"] is None,
            "tracks": tracks_of(begun["tracks"], row["width"], row["height"]),
            "labels": [label for label, _ in facets][:_MOST_NAMES],
        }

    # --- what is asked about --------------------------------------------------------------------

    def _subject(self, uri: str, name: str) -> tuple[dict[str, Any] | None, str]:
        """The row to begin with: the published one, or an empty one for what failed; or None, and why not."""
        rows = rows_of(self._gallery.catalog, uri)
        if row := next((row for row in rows if row["enrichment"] == name), None):
            return row, ""
        failures = failures_of(self._gallery.catalog, uri, rows)
        if (case := next((case for case in failures if case["enrichment"] == name), None)) is None:
            return None, f"The catalog has no result {name} of {uri}, and no failure."
        facts = next((row for row in rows if row["object_version"] == case["object_version"]), None)
        if facts is None:
            media = self._gallery.media
            facts_or_failure = media.facts(uri, case["object_version"])
            if isinstance(facts_or_failure, Failure):
                return None, f"{uri} cannot be decoded, so there is nothing to label: {facts_or_failure.message}"
            facts = facts_or_failure
        return _blank(self._enrichments[name], case, facts), f"This failed: {case['cause']}: {case['message']}"

    # --- saving ---------------------------------------------------------------------------------

    async def save(self, request: Request) -> Response:
        """Save a label for the revision that the page began with; 409 with what stands if there is another one."""
        return await self._changed(request, self._save)

    async def undo(self, request: Request) -> Response:
        """Make a label what it was at an earlier revision; 0: take it back."""
        return await self._changed(request, self._undo)

    async def _changed(self, request: Request, change: Any) -> Response:
        try:
            given = json.loads(await request.body())
            if not isinstance(given, dict):
                raise TypeError
        except (ValueError, TypeError, RecursionError, ClientDisconnect):
            return JSONResponse({"message": "this is no request of the page's"}, 400)
        return await run_in_threadpool(self._told, change, given)

    def _told(self, change: Any, given: dict[str, Any]) -> Response:
        try:
            return JSONResponse(change(given))
        except LabelConflict as conflict:
            standing = conflict.conflicts[0].standing
            return _json({"message": str(conflict), "standing": None if standing is None else _shown(standing)}, 409)
        except InvalidLabel as invalid:
            return _json({"message": str(invalid), "problems": [check for _, check in invalid.problems]}, 422)
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            return _json({"message": f"this is no label: {type(error).__name__}: {error}"[:500]}, 422)
        except SightflowError as error:
            return _json({"message": str(error)}, 502)

    def _save(self, given: dict[str, Any]) -> dict[str, Any]:
        uri, name = str(given["uri"]), str(given["enrichment"])
        if name not in self._enrichments:
            raise ValueError(f"the spec has no enrichment {name}")
        row, why_not = self._subject(uri, name)
        if row is None:
            raise ValueError(why_not)
        if (row["object_version"], row["fingerprint"]) != (given["objectVersion"], given["fingerprint"]):
            raise ValueError("the object or its result has changed since this page was shown; load it again")
        result = {column: _as_stored(given["result"].get(column)) for column in RESULT_COLUMNS}
        label = label_of_row(row, result, self._labelled_by, prefilled=row["fingerprint"] is not None)
        saved = self._labels.save(label, int(given["expected"]))
        return {"revision": saved["revision"]}

    def _undo(self, given: dict[str, Any]) -> dict[str, Any]:
        key = str(given["uri"]), str(given["enrichment"])
        restored = self._labels.restore(*key, int(given["revision"]), int(given["expected"]), self._labelled_by)
        return {"revision": 0 if restored is None else restored["revision"]}


def _as_stored(value: Any, name: str = "") -> Any:
    """A result as JSON has it, with its numbers as the table has them: JavaScript writes 83.0 as 83."""
    match value:
        case dict():
            return {key: _as_stored(each, key) for key, each in value.items()}
        case list():
            return [_as_stored(each, name) for each in value]
        case int() if name in _FLOATS and not isinstance(value, bool):
            return float(value)
    return value


def _is_of(label: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether a label is of the object as a row has seen it."""
    same_bytes = label["sha256"] is not None and label["sha256"] == row["sha256"]
    return bool(label["object_version"] == row["object_version"] or same_bytes)


def _blank(enrichment: Enrichment, case: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """A row with nothing said, for an object whose enrichment failed."""
    capability = enrichment.capability
    empty: dict[str, Any] = dict.fromkeys(RESULT_COLUMNS)
    if capability.gives_places:
        empty["tracks" if capability is Capability.OBJECT_TRACKING else "regions"] = []
    return {
        **{name: facts[name] for name in ("media_kind", "sha256", "width", "height", "duration", "frame_rate")},
        "uri": case["uri"],
        "enrichment": enrichment.name,
        "capability": str(capability),
        "object_version": case["object_version"],
        "parameters": json.dumps(dict(sorted(enrichment.parameters.items())), ensure_ascii=False),
        "system": None,
        "model_id": None,
        "fingerprint": None,
        "inferred_at": None,
        **empty,
    }


def _address(queue: Queue, place: int, **more: str) -> str:
    return f"review?{query({**queue.query, 'place': place, **more})}"


def _key(items: Sequence[tuple[str, str]], place: int) -> dict[str, str]:
    return {"uri": items[place][0], "of": items[place][1]} if 0 <= place < len(items) else {}


def _shown(label: Mapping[str, Any]) -> dict[str, Any]:
    """A label as the page shows the one that somebody else has saved."""
    return {
        "revision": label["revision"],
        "by": label["labelled_by"],
        "at": f"{label['labelled_at']:%Y-%m-%d %H:%M:%S} UTC",
        "result": {column: label[column] for column in RESULT_COLUMNS},
    }


def _json(content: Any, status: int) -> Response:
    text = json.dumps(content, ensure_ascii=True)  # surrogates that a request held stay escaped
    return Response(text, status, media_type="application/json")
