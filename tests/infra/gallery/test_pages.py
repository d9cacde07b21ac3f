"""The gallery in a real browser, on a catalog of the demo's model: the right objects, by keyboard, for everybody."""

import re
from typing import Any
from urllib.parse import quote

import polars as pl
import pytest

from tests.infra.gallery.conftest import Demo, Served, Watched, until


def names(watched: Watched) -> list[str]:
    return watched.page.locator(".card .name").all_inner_texts()


def labelled(demo: Demo, enrichment: str, label: str) -> set[str]:
    """The files of which a row of this enrichment names this label."""
    rows = demo.catalog.scan("enrichments").filter(pl.col("enrichment") == enrichment).collect()
    return {
        row["uri"].rpartition("/")[2]
        for row in rows.iter_rows(named=True)
        if label in {region["label"] for region in row["regions"]}
    }


def test_the_grid_shows_every_object_with_its_picture(demo: Demo, served: Served, watched: Watched) -> None:
    watched.page.goto(served.url)
    assert names(watched) == sorted([*demo.scenes, "film.mp4", "damaged.png"])
    until(watched.page, "[...document.querySelectorAll('.card img')].every((i) => i.complete)")
    shown = watched.page.evaluate(
        "[...document.querySelectorAll('.card img')].filter((i) => i.naturalWidth > 1).map((i) => i.alt)"
    )
    assert len(shown) == len(demo.scenes) + 1  # the film's too; what is damaged has none
    captions = demo.catalog.scan("enrichments").filter(pl.col("enrichment") == "caption").collect()["text"].to_list()
    assert set(captions) <= set(shown)
    watched.page.wait_for_selector("text=no picture: decode")
    # The browser tells of an answer that is no picture, which is what a damaged file has.
    watched.problems = [said for said in watched.problems if "422" not in said]


@pytest.mark.parametrize(
    ("address", "is_shown"),
    [
        ("?enrichment=tracks", lambda demo: {"film.mp4"}),
        ("?capability=segmentation&label=red+triangle", lambda demo: labelled(demo, "masks", "red triangle")),
        ("?enrichment=objects&label=red+triangle", lambda demo: labelled(demo, "objects", "red triangle")),
        ("?cause=decode", lambda demo: {"damaged.png"}),
        ("?state=quarantined", lambda demo: {"damaged.png"}),
        ("?kind=video", lambda demo: {"film.mp4"}),
        ("?prefix=PLACE/0001", lambda demo: {"0001.png"}),
        ("?since=2000-01-01&until=2000-12-31", lambda demo: set()),
        ("?system=florence-2&state=published", lambda demo: {*demo.scenes, "film.mp4"}),
        ("?least=0.999&label=nothing", lambda demo: set()),
    ],
)
def test_a_filter_shows_the_objects_that_meet_it(
    demo: Demo, served: Served, watched: Watched, address: str, is_shown: Any
) -> None:
    watched.page.goto(served.url + address.replace("PLACE", quote(f"file://{demo.media}")))
    assert set(names(watched)) == is_shown(demo)
    watched.problems = [said for said in watched.problems if "422" not in said]


def test_search_filter_and_paging_by_keyboard_alone(demo: Demo, served: Served, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{served.url}?state=published")
    page.keyboard.press("/")
    word = demo.scenes["0004.png"].objects[0].label
    page.keyboard.type(word)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"q="))
    rows = demo.catalog.scan("enrichments").collect()
    texts = rows.filter(pl.col("text").str.contains(word.split()[0]) & pl.col("text").str.contains(word.split()[1]))
    assert set(names(watched)) == {uri.rpartition("/")[2] for uri in texts["uri"]}
    page.keyboard.press("ArrowRight")
    first = page.evaluate("document.activeElement.closest('.card').querySelector('.name').textContent")
    assert first == names(watched)[0]
    page.keyboard.press("Enter")
    page.wait_for_selector("h1 >> text=.png")
    assert page.locator("h1").inner_text() == first
    if texts["uri"].n_unique() > 1:
        page.keyboard.press("n")
        until(page, f"document.querySelector('h1').textContent !== {first!r}")
        page.keyboard.press("p")
        until(page, f"document.querySelector('h1').textContent === {first!r}")
    page.keyboard.press("1")
    assert page.locator(".layer.off").count() == 1
    page.keyboard.press("u")
    page.wait_for_selector("#grid")
    assert "q=" in page.url, "the filter is kept"


def test_an_object_shows_everything_that_is_known_of_it(demo: Demo, served: Served, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{served.url}object?uri={quote(demo.uri('0001.png'))}")
    row = demo.catalog.scan("enrichments").filter(
        (pl.col("uri") == demo.uri("0001.png")) & (pl.col("enrichment") == "objects")
    ).collect().to_dicts()[0]  # fmt: skip
    panel = page.locator("#objects")
    assert panel.locator(".region").count() == len(row["regions"])
    panel.locator("summary").click()
    said = panel.inner_text()
    for part in ("object detection", "florence-2", "free", row["run_id"], f"{row['output_tokens']:,}", row["model_id"]):
        assert part in said
    page.click("text=How this came to be")
    assert "added" in page.locator("main").inner_text() and row["run_id"] in page.locator("main").inner_text()
    page.click("text=as of this version")
    assert page.locator("#objects .region").count() == len(row["regions"])
    page.goto(f"{served.url}runs")
    assert row["run_id"] in page.locator("main").inner_text()
    page.goto(f"{served.url}object?uri={quote(demo.uri('damaged.png'))}")
    failed = page.locator("main").inner_text()
    assert "in quarantine" in failed and "decode" in failed
    watched.problems = [said for said in watched.problems if "422" not in said]


def test_two_systems_side_by_side_mark_what_differs(demo: Demo, served: Served, watched: Watched) -> None:
    page = watched.page
    rows = demo.catalog.scan("enrichments").collect()
    texts = {
        name: dict(rows.filter(pl.col("enrichment") == name).select("uri", "text").iter_rows())
        for name in ("caption", "detailed")
    }
    differing = {uri for uri in texts["caption"] if texts["caption"][uri] != texts["detailed"].get(uri)}
    page.goto(f"{served.url}compare?left=caption&right=detailed")
    assert page.locator(".count").inner_text().startswith(f"{len(differing)} object")
    shown = {each.rpartition("/")[2] for each in page.locator(".pair h2").all_inner_texts()}
    assert shown == {uri.rpartition("/")[2] for uri in differing}
    assert differing and page.locator(".pair mark").count() > 0
    page.goto(f"{served.url}compare?left=objects&right=objects@1")
    assert page.locator(".count").inner_text().startswith("0 objects")
    page.goto(f"{served.url}compare?left=objects&right=masks")
    assert page.locator(".pair .only").count() > 0


def test_sql_is_asked_in_the_sandbox(demo: Demo, served: Served, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{served.url}sql")
    page.fill("textarea", "SELECT uri, caption FROM catalog WHERE caption IS NOT NULL ORDER BY uri")
    page.click("button[type=submit]")
    assert page.locator("tbody tr").count() == len(demo.scenes)
    page.click("tbody a >> nth=0")
    assert page.locator("h1").inner_text() == min(demo.scenes)
    page.goto(f"{served.url}sql?sql={quote('SELECT * FROM read_csv(' + repr('/etc/passwd') + ')')}")
    assert "error" in page.locator("[role=alert]").inner_text().lower()
    assert "root:" not in page.content()


def test_every_page_is_for_everybody_and_stays_at_home(demo: Demo, served: Served, watched: Watched) -> None:
    image, film = (f"object?uri={quote(demo.uri(name))}" for name in ("0002.png", "film.mp4"))
    others = ("compare?left=objects&right=masks", "sql", "runs", "review?order=sample&labelled=too")
    for address in ("?state=published", image, film, *others):
        watched.page.goto(served.url + address)
        watched.check_accessible()
        watched.check_narrow()
    assert all(url.startswith(served.url) for url in watched.requests)
