"""Review: a person corrects results by keyboard, and what was shown as saved stands, whatever happens next."""

import io
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pytest
import yaml
from PIL import Image

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.labels import Labels
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from sightflow.schemas.tables.quarantine import QUARANTINE_SCHEMA
from tests.infra.gallery.conftest import Served, Watched, until

OBJECTS = 27
"""Each with a caption and boxes; a few are labelled by tests before the one that goes over all the others."""


class Bench:
    """A catalog of small pictures with a caption and two boxes each, one failure, and a person in front of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "media").mkdir(parents=True)
        for place in range(OBJECTS + 1):
            image = io.BytesIO()
            Image.new("RGB", (200, 100), (10 * place % 256, 80, 90)).save(image, "PNG")
            (folder / f"media/{place:02d}.png").write_bytes(image.getvalue())
        self.catalog = Catalog(uri=f"file://{folder}/catalog")
        versions = dict(
            ObjectStore().inventory([f"file://{folder}/media/*"]).select("uri", "object_version").iter_rows()
        )
        self.uris = sorted(versions)[:OBJECTS]
        rows = [
            {
                "uri": uri, "enrichment": name, "media_kind": "image", "fingerprint": f"{name}-{place:04d}",
                "object_version": versions[uri], "recipe": "r", "sha256": f"{place:064x}", "width": 200, "height": 100,
                "parameters": "{}", "system": "florence-2", "model_id": "m", "route": ["florence-2"],
                "input_tokens": 1, "output_tokens": 1, "cost_usd": 0.0, "schema_version": 1, "run_id": "run",
                "inferred_at": datetime.now(UTC), **result,
            }
            for place, uri in enumerate(self.uris)
            for name, result in (
                ("caption", {"capability": "image_captioning", "text": f"picture {place}"}),
                ("objects", {"capability": "object_detection", "regions": [box("cat", 10, 0.9), box("dog", 90, 0.2)]}),
            )
        ]  # fmt: skip
        self.catalog.publish(pl.DataFrame(rows, schema=CATALOG_SCHEMA))
        failed = {
            **{name: rows[0][name] for name in ("recipe", "system", "model_id", "route", "cost_usd", "run_id")},
            "uri": max(versions), "enrichment": "caption", "capability": "image_captioning", "fingerprint": "other",
            "object_version": versions[max(versions)], "cause": "malformed", "stage": "infer", "message": "no words",
            "attempts": 1, "raw_reply": "???", "failed_at": datetime.now(UTC),
        }  # fmt: skip
        self.failed_uri = max(versions)
        self.catalog.quarantine(pl.DataFrame([failed], schema=QUARANTINE_SCHEMA))
        self.spec = folder / "spec.yaml"
        asked = [
            {"capability": "captioning", "name": "caption"},
            {"capability": "detection", "name": "objects", "media": "image"},
        ]
        self.spec.write_text(
            yaml.safe_dump({"source": f"{folder}/media/*", "catalog": f"{folder}/catalog", "enrichments": asked})
        )

    @property
    def labels(self) -> dict[tuple[str, str], dict[str, Any]]:
        rows = self.catalog.scan("labels").collect().to_dicts()
        return {(row["uri"], row["enrichment"]): row for row in rows}


def box(label: str, left: float, score: float | None) -> dict[str, Any]:
    edges = {"x_min": left, "y_min": 20.0, "x_max": left + 40, "y_max": 70.0}
    return {"label": label, **edges, "score": score, "mask": None, "frame_index": None, "seconds": None}


def address(reviewing: Served, uri: str, name: str) -> str:
    return f"{reviewing.url}review?uri={quote(uri, safe='')}&of={name}&labelled=too"


def has_left(page: Any, uri: str, name: str = "caption") -> None:
    """Wait until the page is about another result: what was shown has been saved."""
    page.wait_for_url(lambda url: quote(uri, safe="") not in url or f"of={name}" not in url)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("review"))


@pytest.fixture(scope="module")
def reviewing(bench: Bench) -> Iterator[Served]:
    serving = Served("review", str(bench.spec), "--by", "ann", cache=bench.folder / "cache")
    yield serving
    serving.end()


def test_two_people_at_once_lose_nothing(bench: Bench, reviewing: Served, watched: Watched, browser: Any) -> None:
    first = watched.page
    second = Watched(browser)
    place = address(reviewing, bench.uris[0], "caption")
    for each, said in ((first, "from the first"), (second.page, "from the second")):
        each.goto(place)
        each.keyboard.press("e")
        each.keyboard.press("Control+A")
        each.keyboard.type(said)
        each.keyboard.press("Escape")
    first.keyboard.press("a")
    until(first, "!location.href.includes('of=caption') || !document.querySelector('#text')?.value.includes('first')")
    second.page.keyboard.press("a")
    second.page.wait_for_selector("#conflict:not([hidden])")
    both = second.page.locator("#conflict").inner_text()
    assert "from the first" in both and "from the second" in both and "ann" in both
    assert bench.labels[bench.uris[0], "caption"]["text"] == "from the first"
    second.check_accessible()
    second.page.click("#mine")
    until(second.page, "!document.querySelector('#text')?.value.includes('second')")
    assert bench.labels[bench.uris[0], "caption"]["text"] == "from the second"
    history = Labels(bench.catalog).history(bench.uris[0], "caption")
    assert [row["text"] for row in history] == ["from the second", "from the first"]
    assert [said for said in second.problems if "409" not in said] == []
    second.context.close()


def test_what_was_saved_can_be_undone(bench: Bench, reviewing: Served, watched: Watched) -> None:
    page, place = watched.page, address(reviewing, bench.uris[3], "caption")
    page.goto(place)
    page.keyboard.press("a")
    has_left(page, bench.uris[3])
    assert (bench.uris[3], "caption") in bench.labels
    page.wait_for_selector("#hands *")  # which the page's script draws, before that it hears no key
    page.keyboard.press("z")
    page.wait_for_url(lambda url: quote(bench.uris[3], safe="") in url and "of=caption" in url)
    page.wait_for_selector("#hands *")
    assert (bench.uris[3], "caption") not in bench.labels


def test_what_breaks_the_checks_of_a_row_is_not_saved(bench: Bench, reviewing: Served, watched: Watched) -> None:
    page = watched.page
    page.goto(address(reviewing, bench.uris[1], "caption"))
    page.fill("#text", "   ")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    page.wait_for_selector("#said.bad")
    assert "text_is_not_empty" in page.locator("#said").inner_text()
    assert (bench.uris[1], "caption") not in bench.labels
    watched.problems = [said for said in watched.problems if "422" not in said]


def test_boxes_are_moved_and_drawn_with_the_pointer_too(bench: Bench, reviewing: Served, watched: Watched) -> None:
    page = watched.page
    page.goto(address(reviewing, bench.uris[2], "objects"))
    until(page, "document.querySelector('.stage img').naturalWidth > 0")

    def drag(x0: float, y0: float, x1: float, y1: float) -> None:
        stage = page.locator(".stage").bounding_box()
        scale = stage["width"] / 200
        page.mouse.move(stage["x"] + x0 * scale, stage["y"] + y0 * scale)
        page.mouse.down()
        page.mouse.move(stage["x"] + x1 * scale, stage["y"] + y1 * scale, steps=3)
        page.mouse.up()

    drag(30, 45, 40, 50)
    page.click("text=Draw a box")
    drag(150, 10, 190, 60)
    page.keyboard.press("a")
    has_left(page, bench.uris[2], "objects")
    regions = bench.labels[bench.uris[2], "objects"]["regions"]
    edges = [[region[edge] for edge in ("x_min", "y_min", "x_max", "y_max")] for region in regions]
    assert len(edges) == 3
    for found, wanted in zip(edges, ([20, 25, 60, 75], [90, 20, 130, 70], [150, 10, 190, 60]), strict=True):
        assert all(abs(a - b) < 1 for a, b in zip(found, wanted, strict=True)), edges


def test_which_are_asked_about_and_in_which_order(bench: Bench, reviewing: Served, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{reviewing.url}review?order=low")
    assert page.evaluate("JSON.parse(document.querySelector('#document').textContent).enrichment") == "objects"
    page.goto(f"{reviewing.url}review?order=quarantine")
    assert "malformed" in page.locator("[role=alert]").inner_text()
    page.fill("#text", "a plain picture")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    page.wait_for_selector("text=Nothing is left")
    label = bench.labels[bench.failed_uri, "caption"]
    assert (label["text"], label["prefilled_model_id"], label["width"]) == ("a plain picture", None, 200)
    watched.check_accessible()
    watched.check_narrow()


def test_a_label_of_an_object_that_has_changed_is_told_and_not_used(
    bench: Bench, reviewing: Served, watched: Watched
) -> None:
    page, uri = watched.page, bench.uris[4]
    page.goto(address(reviewing, uri, "caption"))
    page.fill("#text", "as it was")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    has_left(page, uri)
    row = bench.catalog.scan("enrichments").filter((pl.col("uri") == uri) & (pl.col("enrichment") == "caption"))
    new = {"object_version": pl.lit("2-2"), "sha256": pl.lit("f" * 64), "fingerprint": pl.lit("another")}
    bench.catalog.publish(row.collect().with_columns(text=pl.lit("as it is"), **new))
    page.goto(address(reviewing, uri, "caption"))
    assert "changed since it was labelled" in page.locator("[role=alert]").inner_text()
    assert page.input_value("#text") == "as it is"
    watched.problems = [said for said in watched.problems if "410" not in said]


def test_a_person_corrects_fifty_results_by_keyboard_and_a_kill_loses_none(
    bench: Bench, reviewing: Served, watched: Watched
) -> None:
    page = watched.page
    page.goto(f"{reviewing.url}review?seed=5")
    expected: dict[tuple[str, str], Any] = {}
    while page.locator("#hands").count():
        done = len(expected)
        page.wait_for_selector("#hands *")
        document = page.evaluate("JSON.parse(document.querySelector('#document').textContent)")
        key = document["uri"], document["enrichment"]
        assert key not in expected, "none is asked about twice"
        if key[1] == "caption" and done % 3:
            page.keyboard.press("e")
            page.keyboard.press("Control+A")
            page.keyboard.type(f"what I see, {done}")
            page.keyboard.press("Escape")
            expected[key] = f"what I see, {done}"
        elif key[1] == "caption":
            expected[key] = document["result"]["text"]
        else:
            regions = document["result"]["regions"]
            page.keyboard.press("j")
            match done % 4:
                case 0:
                    page.keyboard.press("Shift+ArrowRight")
                    page.keyboard.press("ArrowDown")
                    page.keyboard.press("Alt+ArrowRight")
                    regions[0] |= {"x_min": 20, "x_max": 61, "y_min": 21, "y_max": 71, "score": None}
                case 1:
                    page.keyboard.press("d")
                    del regions[0]
                case 2:
                    page.keyboard.press("r")
                    page.keyboard.press("Control+A")
                    page.keyboard.type("tiger")
                    page.keyboard.press("Enter")
                    regions[0]["label"] = "tiger"
                case _:
                    page.keyboard.press("b")
                    page.keyboard.press("ArrowLeft")
                    page.keyboard.press("z")
                    page.keyboard.press("ArrowUp")
                    drawn = {"x_min": 83, "y_min": 32, "x_max": 117, "y_max": 66, "label": "cat", "score": None}
                    regions.append({**box("cat", 0, None), **drawn})
            expected[key] = regions
        page.keyboard.press("a")
        here = f'"uri": "{key[0]}", "enrichment": "{key[1]}"'
        until(page, "(here) => !document.querySelector('#document')?.textContent.includes(here)", here)
        page.wait_for_selector("#hands *, h1:has-text('Nothing is left')")
    reviewing.process.send_signal(signal.SIGKILL)
    labels = {key: row for key, row in bench.labels.items() if key in expected}
    assert len(expected) >= 50
    assert {key: row["text"] or row["regions"] for key, row in labels.items()} == expected
    assert all(row["labelled_by"] == "ann" and row["prefilled_model_id"] == "m" for row in labels.values())
    assert {row["origin"] for row in labels.values()} == {"review"}
    watched.problems = [said for said in watched.problems if "410" not in said]
