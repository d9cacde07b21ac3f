"""The pictures of the documentation: the demo's gallery in Chromium.

    sightflow demo && python -m sightflow.infra.demo.gallery_pictures --browser .tools/browser/chromium

Needs the development packages (playwright).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WIDTH, _HEIGHT = 1280, 800


def take_pictures(site: Path, folder: Path, browser: str) -> None:
    """Write `gallery.png` (an object) and `gallery-grid.png` into a folder, from a gallery that lies in files."""
    index = json.loads((site / "index.js").read_text().partition("= ")[2].rstrip(";\n"))
    pictures = [each for each in index["objects"] if each[4] == "image" and not each[5]]
    richest = max(pictures, key=lambda each: sum(len(row[9]) for row in each[6]))
    with opened(browser, _WIDTH, _HEIGHT) as page:
        for name, address in (("gallery.png", richest[1]), ("gallery-grid.png", "index.html")):
            page.goto((site / address).resolve().as_uri())
            page.wait_for_load_state("networkidle")
            page.evaluate("document.querySelector('.where').textContent = 'demo-output/catalog'")
            page.screenshot(path=folder / name)


@contextmanager
def opened(browser: str, width: int, height: int) -> Iterator[Any]:
    """A page of so many pixels in a Chromium, with the libraries and fonts that lie beside it, if it brings them."""
    from playwright.sync_api import sync_playwright

    beside = Path(browser).resolve().parent
    own = {"LD_LIBRARY_PATH": str(beside / "lib"), "FONTCONFIG_FILE": str(beside / "fonts.conf")}
    environment: dict[str, str | float | bool] = {**os.environ, **(own if (beside / "fonts.conf").exists() else {})}
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"], env=environment)
        yield chromium.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        chromium.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--site", type=Path, default=Path("demo-output/gallery"))
    parser.add_argument("--folder", type=Path, default=Path("docs/images"))
    parser.add_argument("--browser", required=True, help="the program")
    given = parser.parse_args()
    take_pictures(given.site, given.folder, given.browser)


if __name__ == "__main__":
    main()
