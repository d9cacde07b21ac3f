"""The gallery as a folder: opened from the disk, it shows the same and asks nobody for anything."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from tests.command_line import app
from tests.infra.gallery.conftest import Demo, Watched, until
from tests.infra.gallery.hostile import hostile_catalog


def typed(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(scope="session")
def site(demo: Demo) -> Path:
    done = typed("gallery", str(demo.spec), "--out", str(demo.folder / "site"))
    assert done.exit_code == 0 and "6 objects, 1 of them without a picture" in done.stdout.replace("\n", " ")
    return demo.folder / "site"


def test_the_folder_shows_the_catalog_without_a_server(site: Path, demo: Demo, watched: Watched) -> None:
    page = watched.page
    page.goto((site / "index.html").as_uri())
    assert page.locator(".card").count() == len(demo.scenes) + 2
    watched.check_accessible()
    watched.check_narrow()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1 >> text=0001.png")
    assert page.evaluate("document.querySelector('.stage img').naturalWidth") == demo.scenes["0001.png"].image.width
    assert page.locator("#objects .region").count() == len(demo.scenes["0001.png"].objects)
    page.keyboard.press("n")
    page.wait_for_selector("h1 >> text=0002.png")
    watched.check_accessible()
    watched.check_narrow()
    page.goto(next((site / "objects").glob("*6.html")).as_uri())
    until(page, "document.querySelector('video')?.readyState >= 2")
    page.keyboard.press(".")
    until(page, "Math.abs(document.querySelector('.stage').dataset.time - 0.125) < 0.01")
    assert all(url.startswith(site.as_uri()) for url in watched.requests)


def test_a_filter_is_quick_and_can_be_shared(site: Path, demo: Demo, watched: Watched) -> None:
    page = watched.page
    page.goto((site / "index.html").as_uri())
    rows = demo.catalog.scan("enrichments").filter(pl.col("enrichment") == "objects").collect()
    label = rows["regions"][0][0]["label"]
    having = {
        row["uri"].rpartition("/")[2] for row in rows.to_dicts() if label in {each["label"] for each in row["regions"]}
    }
    page.select_option("select[name=enrichment]", "objects")
    page.select_option("select[name=label]", label)
    assert set(page.locator(".card .name").all_inner_texts()) == having
    shared = page.url
    page.goto("about:blank")
    page.goto(shared)
    assert set(page.locator(".card .name").all_inner_texts()) == having
    page.goto((site / "index.html").as_uri() + "#sort=-uri&state=quarantined")
    assert page.locator(".card .name").all_inner_texts() == ["damaged.png"]


def test_only_what_is_asked_for_is_written(site: Path, demo: Demo, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    done = typed("gallery", str(demo.spec), "--out", str(folder), "--where", "caption IS NOT NULL", "--limit", "2")
    assert done.exit_code == 0 and "2 objects" in done.stdout
    assert len(list((folder / "objects").iterdir())) == 2
    again = typed("gallery", str(demo.spec), "--out", str(folder), "--where", "media_kind = 'video'")
    assert again.exit_code == 0 and len(list((folder / "objects").iterdir())) == 1, "an earlier gallery is replaced"
    wrong = typed("gallery", str(demo.spec), "--out", str(folder), "--where", "nothing = 1")
    assert wrong.exit_code == 2
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    refused = typed("gallery", str(demo.spec), "--out", str(other))
    assert refused.exit_code == 2 and (other / "thesis.txt").read_text() == "mine"


def test_hostile_text_runs_nothing_from_the_disk(tmp_path: Path, watched: Watched) -> None:
    catalog = hostile_catalog(tmp_path)
    place = catalog.uri.removeprefix("file://")
    done = typed("gallery", place, "--out", str(tmp_path / "site"))
    assert done.exit_code == 0, done.output
    shutil.rmtree(tmp_path / "media")
    page = watched.page
    page.goto((tmp_path / "site/index.html").as_uri())
    cards = page.locator(".card").count()
    assert cards == 6
    page.locator("select[name=enrichment]").select_option("caption")
    assert page.locator(".card").count() == 5
    assert "⟨U+202E⟩" in page.locator("#grid").inner_text()
    for number in range(1, cards + 1):
        page.goto((tmp_path / f"site/objects/{number:05d}.html").as_uri())
        page.locator("summary").evaluate_all("all => all.forEach((each) => each.click())")
        page.locator(".region").evaluate_all("all => all.forEach((each) => each.click())")
        assert page.locator("img[src=x], script:not([src]):not([type='application/json'])").count() == 0
    assert all(url.startswith((tmp_path / "site").as_uri()) for url in watched.requests)


def test_ten_thousand_objects_are_filtered_by_one_index(site: Path, tmp_path: Path, watched: Watched) -> None:
    """The time is measured by `python -m benchmarks.gallery`; here only that the right ones are found."""
    folder = tmp_path / "many"
    shutil.copytree(site, folder)
    head, _, tail = (folder / "index.js").read_text().partition("= ")
    index = json.loads(tail.rstrip(";\n"))
    first = index["objects"][0]
    index["objects"] = [
        [f"s3://b/{n:05d}.jpg", *first[1:6], [[*row[:8], f"text number {n}", *row[9:]] for row in first[6]]]
        for n in range(10_000)
    ]
    (folder / "index.js").write_text(f"{head}= {json.dumps(index)};\n")
    watched.page.goto((folder / "index.html").as_uri())
    watched.page.fill("input[name=q]", "number 777")
    assert watched.page.locator("#count").inner_text() == "19 objects"
    assert watched.page.locator(".card").count() == 19
    watched.page.fill("input[name=q]", "number")
    assert watched.page.locator(".card").count() == 48
    watched.page.keyboard.press("Escape")
    watched.page.keyboard.press("n")
    watched.page.wait_for_selector("text=page 2 of 209")
