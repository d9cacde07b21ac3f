"""A picture of each capability that the demo's models have, for the documentation: one drawing, one film, the gallery.

    python -m sightflow.infra.demo.capability_pictures --browser .tools/browser/chromium

Needs the development packages (playwright).
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from PIL import Image

from sightflow.infra.demo.bucket import MODEL_FOLDER, VIDEO_MODEL_FOLDER
from sightflow.infra.demo.gallery_pictures import opened
from sightflow.infra.demo.moving_scenes import draw_clip, write_video
from sightflow.infra.demo.scenes import draw_scene

_SCENE, _FILM = 32, 1
"""Seeds of a drawing with several shapes, and of a film in which two cross."""
_ASKED = (
    {"capability": "image captioning", "name": "captioning"},
    {
        "capability": "visual question answering",
        "name": "answering",
        "question": "how many shapes are there?",
        "choices": ["1", "2", "3", "4"],
        "media": "image",
    },
    {"capability": "visual grounding", "name": "grounding", "phrases": ["a purple star"], "media": "image"},
    {"capability": "object detection", "name": "detection", "media": "image"},
    {
        "capability": "segmentation",
        "name": "segmentation",
        "labels": ["yellow circle", "purple star"],
        "media": "image",
    },
    {"capability": "object tracking", "name": "tracking", "model": "florence-2", "sampling": {"fps": 8}},
    {"capability": "video captioning", "name": "film", "model": "qwen2-vl"},
)
_ONLY = """name => {
  for (const other of document.querySelectorAll(".panel")) other.hidden = other.id !== name;
  for (const layer of document.querySelectorAll("g.layer")) {
    layer.style.display = layer.dataset.layer === name ? "" : "none";
  }
  document.querySelector(".layers")?.remove();
}"""
_LAST_MOMENT = "stage => { if (stage.player) stage.player.seek(stage.player.range.max * 0.6); }"


def take_pictures(folder: Path, browser: str) -> None:
    """Write `capability-NAME.png` for each into a folder."""
    from sightflow.infra.gallery.media.media import Media
    from sightflow.infra.gallery.search.filters import Filter
    from sightflow.infra.gallery.search.index import CatalogIndex
    from sightflow.infra.gallery.static_site import write_gallery
    from sightflow.infra.local_run import enrich_on
    from sightflow.infra.prefect_server import prefect_api
    from sightflow.schemas.spec_reader import read_spec
    from sightflow.tasks.open import open_catalog

    with TemporaryDirectory() as made:
        work = Path(made)
        (work / "media").mkdir()
        draw_scene(_SCENE).image.save(work / "media/drawing.png")
        write_video(draw_clip(_FILM), work / "media/film.mp4")
        spec = {
            "source": f"{work}/media/**",
            "catalog": f"{work}/catalog",
            "enrichments": list(_ASKED),
            "models": {"florence-2": {"id": str(MODEL_FOLDER)}, "qwen2-vl": {"id": str(VIDEO_MODEL_FOLDER)}},
        }
        (work / "spec.yaml").write_text(yaml.safe_dump(spec))
        read = read_spec(work / "spec.yaml")
        with prefect_api() as server:
            enrich_on(server, read)
        catalog = open_catalog(read)
        index = CatalogIndex(catalog)
        index.read_all()
        uris = index.page(Filter(), 0, 10)
        site = write_gallery(catalog, Media(catalog.store, catalog.uri), index, uris, work / "site").index.parent
        index.close()
        with opened(browser, width=900, height=520) as page:
            for asked in _ASKED:
                name = asked["name"]
                for address in sorted(site.rglob("*.html")):
                    page.goto(address.resolve().as_uri())
                    page.wait_for_load_state("networkidle")
                    if page.locator(f'article.panel[id="{name}"]').count():
                        break
                else:
                    raise SystemExit(f"no page says anything of {name}")
                page.evaluate(_ONLY, name)
                page.locator(".stage").evaluate(_LAST_MOMENT)
                page.wait_for_timeout(500)  # a film shows its frame
                _save(page.locator("div.object").screenshot(), folder / f"capability-{name}.png")


def _save(picture: bytes, path: Path) -> None:
    """Write a picture with the colours that a drawing needs, a third as large."""
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("docs/images"))
    parser.add_argument("--browser", required=True, help="the program")
    given = parser.parse_args()
    take_pictures(given.folder, given.browser)


if __name__ == "__main__":
    main()
