"""One browser, one catalog of the demo's models and one server for all tests of the gallery."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.flows.enrich import enrich
from sightflow.infra.demo.bucket import MODEL_FOLDER, broken_files
from sightflow.infra.demo.moving_scenes import draw_clip, write_video
from sightflow.infra.demo.scenes import draw_scene
from sightflow.infra.server_process import PrefectServer
from sightflow.schemas.spec_reader import read_spec
from tests.browser.chromium import AXE, launch_settings, why_no_browser

SCENES = (0, 1, 2, 4)
SEGMENTED = ("red circle", "blue square", "green triangle", "yellow star", "purple triangle", "red triangle")


class Served:
    """A command that serves pages, in a process of its own: `url` with its secret, which ends in a slash."""

    def __init__(self, *words: str, cache: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from sightflow.infra.cli import main; main()", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "XDG_CACHE_HOME": str(cache)},
        )
        self.said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if found := re.match(r"(http://127\.0\.0\.1:\d+/[\w-]{32}/)", line):
                self.url = found[1]
                return
        raise AssertionError(self.said)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class Demo:
    """A bucket of drawings, and the catalog that the demo's model has made of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.media, self.spec = folder, folder / "media", folder / "spec.yaml"
        self.media.mkdir(parents=True)
        self.scenes = {f"{seed:04d}.png": draw_scene(seed) for seed in SCENES}
        for name, scene in self.scenes.items():
            scene.image.save(self.media / name)
        self.clip = draw_clip(1)
        write_video(self.clip, self.media / "film.mp4")
        (self.media / "damaged.png").write_bytes(broken_files(self.scenes["0000.png"])["damaged.png"])
        spec = {
            "source": f"{self.media}/**",
            "catalog": f"{folder}/catalog",
            "models": {"florence-2": {"id": str(MODEL_FOLDER)}},
            "policy": {"max_quarantine_ratio": 1.0},
            "enrichments": [
                {"capability": "image captioning", "name": "caption"},
                {"capability": "image captioning", "name": "detailed", "detail": "detailed"},
                {"capability": "object detection", "name": "objects", "media": "image"},
                {"capability": "segmentation", "name": "masks", "labels": list(SEGMENTED), "media": "image"},
                {"capability": "object tracking", "name": "tracks", "sampling": {"fps": 4}, "model": "florence-2"},
                {
                    "capability": "object tracking",
                    "name": "tracks_with_masks",
                    "labels": sorted({f"{mover.colour} {mover.shape}" for mover in self.clip.movers}),
                    "masks": True,
                    "sampling": {"fps": 4},
                    "model": "florence-2",
                },
            ],
        }
        self.spec.write_text(yaml.safe_dump(spec))

    def uri(self, name: str) -> str:
        return f"file://{self.media}/{name}"

    @property
    def catalog(self) -> Catalog:
        return Catalog(uri=f"file://{self.folder}/catalog")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, prefect_server: PrefectServer) -> Demo:
    made = Demo(tmp_path_factory.mktemp("gallery"))
    enrich(read_spec(made.spec))
    return made


@pytest.fixture(scope="session")
def served(demo: Demo) -> Iterator[Served]:
    """`sightflow review`, which serves the gallery too."""
    serving = Served("review", str(demo.spec), "--by", "ann", cache=demo.folder / "cache")
    yield serving
    serving.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for one file: Playwright's loop must not run while other tests of this process want one of their own.

    Where none can be had the tests are skipped, each of them saying so.
    """
    if why := why_no_browser():
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(**launch_settings())
        yield started
        started.close()


def until(page: Any, expression: str, argument: Any = None) -> None:
    """Wait until an expression is true on a page. Playwright's own way evaluates text, which the page's policy forbids.

    What is asked while the page is left for another is asked again.
    """
    from playwright.sync_api import Error

    end = time.monotonic() + 60
    while True:
        try:
            if page.evaluate(expression, argument):
                return
        except Error as error:
            if "context was destroyed" not in str(error) and "navigat" not in str(error):
                raise
        assert time.monotonic() < end, expression
        page.wait_for_timeout(20)


class Watched:
    """A page, and what went wrong on it: errors on the console, and requests that left its origin."""

    def __init__(self, browser: Any, **settings: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1200, "height": 900}, **settings)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.problems.append(said.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.context.on("request", lambda request: self.requests.append(request.url))

    def check_accessible(self) -> None:
        """Nothing that axe calls serious, in both themes."""
        for theme in ("light", "dark"):
            self.page.emulate_media(color_scheme=theme)
            self.page.evaluate(AXE.read_text())
            found = self.page.evaluate("async () => (await axe.run({ preload: false })).violations")
            serious = [
                (each["id"], [node["html"] for node in each["nodes"]][:3])
                for each in found
                if each["impact"] in ("serious", "critical")
            ]
            assert not serious, (theme, serious)

    def check_narrow(self) -> None:
        """Nothing is wider than a phone of 360 pixels."""
        before = self.page.viewport_size
        self.page.set_viewport_size({"width": 360, "height": 740})
        wide = self.page.evaluate("document.documentElement.scrollWidth")
        self.page.set_viewport_size(before)
        assert wide <= 360, wide


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    """A page on which nothing goes wrong."""
    watching = Watched(browser)
    yield watching
    problems = list(watching.problems)
    watching.context.close()
    assert not problems
