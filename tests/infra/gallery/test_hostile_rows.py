"""Rows that no writer of ours has checked: a page says what is wrong, and no other object's page is lost for it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import polars as pl
import pytest
from deltalake import write_deltalake

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.infra.gallery.access import new_secret
from sightflow.infra.gallery.app import Gallery
from sightflow.infra.gallery.media.media import Media
from sightflow.infra.gallery.media.preview_cache import PreviewCache
from sightflow.infra.gallery.search.filters import Filter
from sightflow.infra.gallery.search.index import CatalogIndex
from sightflow.infra.gallery.sql_process import _answer
from sightflow.infra.gallery.static_site import write_gallery
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from tests.infra.gallery.test_access import Caller
from tests.schemas.tables.test_catalog import region, row

POINT = {"frame_index": 3, "seconds": None, "x_min": None, "y_min": 1.0, "x_max": 9.0, "y_max": 8.0, "score": None}
ODD: dict[str, dict[str, Any]] = {
    "https://evil.example/a.jpg": {},
    "javascript:alert(1)": {},
    "file:///a\0b.jpg": {},
    "": {},
    "s3:///x.jpg": {"media_kind": None},
    "file:///none/label.jpg": {"regions": [{**region(), "label": None, "x_min": None}]},
    "file:///none/size.jpg": {"width": None, "height": 0},
    "file:///none/track.mp4": {
        "enrichment": "tracks", "capability": "object_tracking", "media_kind": "video", "regions": None,
        "tracks": [{"track_id": 1, "label": None, "points": [{**POINT, "gap": None}]}],
    },
    "file:///none/null.jpg": {"capability": None, "system": None, "model_id": None, "run_id": None, "cost_usd": None},
}  # fmt: skip
SECRET = new_secret()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    folder = tmp_path_factory.mktemp("odd")
    catalog = Catalog(uri=f"file://{folder}/catalog")
    catalog.publish(pl.DataFrame([row(uri="file:///none/sound.jpg")], schema=CATALOG_SCHEMA))
    odd = pl.DataFrame([row(uri=uri, **given) for uri, given in ODD.items()], schema=CATALOG_SCHEMA)
    write_deltalake(f"{folder}/catalog/enrichments", odd.to_arrow(), mode="append")
    index = CatalogIndex(catalog)
    index.read_all()
    media = Media(catalog.store, catalog.uri, cache=PreviewCache(folder / "previews"))
    yield Gallery(catalog, media, index, (catalog.uri, None))
    index.close()


def test_a_page_says_what_is_wrong_and_the_grid_is_whole(pages: Gallery) -> None:
    call = Caller(pages.application(SECRET))
    grid = call(f"/{SECRET}/")
    assert grid.status_code == 200 and grid.text.count('class="card') == len(ODD) + 1
    for uri in ODD:
        for path in ("object", "thumbnail", "picture", "video", "history"):
            answer = call(f"/{SECRET}/{path}", params={"uri": uri})
            assert answer.status_code in (200, 404, 410, 415, 422, 502), (uri, path)
    assert "damaged" in call(f"/{SECRET}/object", params={"uri": "file:///none/track.mp4"}).text


def test_no_host_is_asked_because_a_catalog_names_it(pages: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any) -> Any:
        raise AssertionError("the store was asked")

    for method in ("read_many", "read_starts", "download_many", "read_part"):
        monkeypatch.setattr(type(pages.catalog.store), method, asked)
    call = Caller(pages.application(SECRET))
    for path in ("thumbnail", "picture", "video"):
        answer = call(f"/{SECRET}/{path}", params={"uri": "https://evil.example/a.jpg"})
        assert answer.status_code in (422, 502) and "--media-from https://evil.example" in answer.text


def test_a_folder_of_files_has_every_other_object(pages: Gallery, tmp_path: Path) -> None:
    uris = pages.index.page(Filter(), 0, 100)
    done = write_gallery(pages.catalog, pages.media, pages.index, uris, tmp_path / "site")
    assert done.objects == len(ODD) + 1
    objects = [path.read_text() for path in sorted((tmp_path / "site" / "objects").iterdir())]
    assert sum("damaged" in page for page in objects) >= 1 and all("</html>" in page for page in objects)


def test_a_gallery_that_was_killed_while_it_was_written_is_replaced(pages: Gallery, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def dies(done: int) -> None:
        raise Killed

    uris = ["file:///none/sound.jpg"]
    for _ in range(2):
        with pytest.raises(Killed):
            write_gallery(pages.catalog, pages.media, pages.index, uris, tmp_path / "site", dies)
    assert write_gallery(pages.catalog, pages.media, pages.index, uris, tmp_path / "site").objects == 1


def test_a_row_that_is_too_long_for_a_page_is_told() -> None:
    program = "print('{\"a\": \"' + 'x' * 5_000_000 + '\"}')"
    with Popen([sys.executable, "-c", program], stdout=PIPE, stderr=PIPE) as process:
        said = _answer(process)
        process.kill()
    assert said.error and "fewer columns" in said.error
