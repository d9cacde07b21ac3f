"""A catalog written against its reader, in a real browser: nothing of it runs, and nothing is asked of others."""

import threading
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import pytest
import uvicorn

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.infra.gallery.access import new_secret
from sightflow.infra.gallery.server import address, listen
from tests.infra.gallery.conftest import Watched
from tests.infra.gallery.hostile import ALL, HOSTILE, hostile_catalog, reviewed


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return hostile_catalog(tmp_path_factory.mktemp("hostile-pages"))


@pytest.fixture(scope="module")
def url(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The pages of this catalog, served from a thread."""
    listener, secret = listen(0), new_secret()
    with reviewed(catalog, tmp_path_factory.mktemp("previews"), secret) as application:
        server = uvicorn.Server(uvicorn.Config(application, lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield address(listener, secret)
        server.should_exit = True
        thread.join(10)


def test_nothing_of_it_runs(catalog: Catalog, url: str, watched: Watched) -> None:
    page = watched.page
    page.add_init_script("window.ran = []; window.alert = (what) => window.ran.push(what);")
    uris = sorted(catalog.scan("enrichments").select("uri").unique().collect()["uri"])
    failed = catalog.scan("quarantine").collect()["uri"][0]
    pages = [
        "",
        f"?{urlencode({'q': HOSTILE[0]})}",
        f"?{urlencode({'label': ALL})}",
        "compare?left=caption&right=again",
    ]
    pages += [f"?{urlencode({'run': ALL, 'prefix': HOSTILE[1], 'enrichment': HOSTILE[8]})}", f"sql?sql={quote(ALL)}"]
    pages += [f"object?uri={quote(uri, safe='')}" for uri in (*uris, failed)]
    pages += [f"review?uri={quote(uri, safe='')}&of=objects" for uri in uris if not uri.endswith("mp4")]
    for each in pages:
        page.goto(url + each)
        page.locator("summary").evaluate_all("all => all.forEach((one) => one.click())")
        page.locator(".region").evaluate_all("all => all.forEach((one) => { one.focus(); one.click(); })")
        assert page.evaluate("window.ran") == [], each
        assert page.locator("img[src=x], svg[onload], [onmouseover], iframe, object, embed").count() == 0
        assert page.locator("a[href^='javascript:'], a[href^='data:']").count() == 0
        assert "49" not in page.locator("h1").first.inner_text()
    assert all(asked.startswith(url) for asked in watched.requests)
    # What fails to decode, and what is not in the catalog, is told by the answer's status.
    watched.problems = [said for said in watched.problems if "status of 4" not in said]
