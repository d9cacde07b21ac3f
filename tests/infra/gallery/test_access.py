"""Nobody is let in but who knows the secret, from this machine and the gallery's own pages: over plain HTTP."""

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.infra.gallery.access import CONTENT_SECURITY_POLICY, new_secret
from sightflow.infra.gallery.app import Gallery
from sightflow.infra.gallery.media.media import Media
from sightflow.infra.gallery.search.index import CatalogIndex
from tests.infra.gallery.hostile import HOSTILE, hostile_catalog, reviewed

SECRET = new_secret()
OURS = {"X-Sightflow": "1", "Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"}
PATHS = ("", "object?uri=x", "compare", "runs", "history?uri=x", "assets/gallery.js", "thumbnail?uri=x", "video?uri=x",
         "review")  # fmt: skip


class Caller:
    """Requests to an application, without a server; `host` is what a browser would send."""

    def __init__(self, application: Any) -> None:
        self._application = application

    def __call__(self, path: str, method: str = "GET", **given: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._application, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client:
                return await client.request(method, path, **given)

        with ThreadPoolExecutor(1) as pool:  # beside a loop of Playwright's in this thread
            return pool.submit(lambda: asyncio.run(ask())).result()


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return hostile_catalog(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def call(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    with reviewed(catalog, tmp_path_factory.mktemp("previews"), SECRET) as application:
        yield Caller(application)


@pytest.mark.parametrize("path", PATHS)
def test_the_secret_is_needed_for_every_path(call: Caller, path: str) -> None:
    wrong = SECRET[:-1] + ("a" if SECRET[-1] != "a" else "b")
    for start in ("/", f"/{wrong}/", f"/{SECRET}", f"//{SECRET}/", f"/x/{SECRET}/"):
        answer = call(start + path if start != f"/{SECRET}" else start)
        assert (answer.status_code, answer.content) == (404, b""), start
    known = call(f"/{SECRET}/{path}")
    assert known.status_code in (200, 303, 404) and (known.content or known.headers["location"])


def test_every_answer_is_strict(call: Caller) -> None:
    for path in (*PATHS, "nowhere"):
        headers = call(f"/{SECRET}/{path}").headers
        assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert headers["referrer-policy"] == "no-referrer" and headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in headers if name.startswith("access-control")]
    assert "unsafe" not in CONTENT_SECURITY_POLICY and "default-src 'none'" in CONTENT_SECURITY_POLICY


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.7:80", "", "[::1", "a b"])
def test_a_name_that_was_rebound_to_this_machine_gets_nothing(call: Caller, host: str) -> None:
    assert call(f"/{SECRET}/", headers={"Host": host}).content == b""
    assert call(f"/{SECRET}/", headers={"Host": "localhost:8000"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**OURS, "Sec-Fetch-Site": "cross-site"},
        {**OURS, "Sec-Fetch-Site": "same-site"},
        {**OURS, "Sec-Fetch-Site": "none"},
        {**OURS, "Content-Type": "text/plain"},
        {name: value for name, value in OURS.items() if name != "X-Sightflow"},
        {"X-Sightflow": "1", "Content-Type": "application/json"},
        {"X-Sightflow": "1", "Content-Type": "application/json", "Origin": "http://evil.example"},
        {"X-Sightflow": "1", "Content-Type": "application/json", "Origin": "null"},
    ],
)
def test_what_changes_something_comes_from_our_page(call: Caller, headers: dict[str, str]) -> None:
    assert call(f"/{SECRET}/review/save", "POST", headers=headers, content=b"{}").status_code == 403
    assert call(f"/{SECRET}/review/save", "POST", headers=OURS, content=b"{}").status_code == 422
    own = {"X-Sightflow": "1", "Content-Type": "application/json", "Origin": "http://127.0.0.1:1"}
    assert call(f"/{SECRET}/review/save", "POST", headers=own, content=b"[]").status_code == 400


def test_a_request_without_end_is_not_read_to_its_end(call: Caller) -> None:
    answer = call(f"/{SECRET}/review/save", "POST", headers=OURS, content=b" " * (5 * 2**20))
    assert answer.status_code == 400


def test_only_media_of_the_catalog_are_read_with_the_readers_keys(call: Caller, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"\x89PNG")
    for what in ("thumbnail", "picture", "video"):
        for uri in (f"file://{tmp_path}/secret.png", "file:///etc/passwd", "https://example.com/a.png", ""):
            assert call(f"/{SECRET}/{what}", params={"uri": uri}).status_code == 404
    assert call(f"/{SECRET}/assets/../app.py").status_code == 404
    assert call(f"/{SECRET}/assets/%2e%2e/app.py").status_code == 404


def test_hostile_text_is_text_on_every_page(call: Caller, catalog: Catalog) -> None:
    uris = catalog.scan("enrichments").select("uri").unique().collect()["uri"].to_list()
    uris += catalog.scan("quarantine").select("uri").unique().collect()["uri"].to_list()
    pages = [call(f"/{SECRET}/"), call(f"/{SECRET}/", params={"q": HOSTILE[0], "label": HOSTILE[1], "run": HOSTILE[2]})]
    pages += [call(f"/{SECRET}/object", params={"uri": uri}) for uri in uris]
    pages += [call(f"/{SECRET}/history", params={"uri": uri}) for uri in uris]
    pages += [call(f"/{SECRET}/compare", params={"left": "caption", "right": "again", "prefix": ""})]
    pages += [call(f"/{SECRET}/review", params={"uri": uri, "of": "caption"}) for uri in uris]
    for page in pages:
        text = re.sub(r'(value|data-layer|data-shape)="[^"]*"', "", page.text)  # what a form sends back is as it is
        assert page.status_code in (200, 404)
        for mark in ("<script>alert", "<img src=x", 'href="javascript:', "onerror=alert(1)>", "49</", "\x1b", "\u202e"):
            assert mark not in text.replace("&lt;", "").replace("&#34;", ""), mark
    assert any("⟨U+202E⟩" in page.text and "⟨U+001B⟩" in page.text for page in pages)


def test_the_kinds_of_ranges_that_a_player_asks_for(call: Caller, catalog: Catalog, tmp_path: Path) -> None:
    uri = next(u for u in catalog.scan("enrichments").collect()["uri"] if u.endswith(".mp4"))
    whole = call(f"/{SECRET}/video", params={"uri": uri})
    assert whole.status_code == 200 and whole.headers["content-type"] == "video/mp4"
    size = len(whole.content)
    for asked, part in {
        "bytes=0-": whole.content,
        "bytes=0-9": whole.content[:10],
        f"bytes={size - 5}-": whole.content[-5:],
        "bytes=-7": whole.content[-7:],
        f"bytes=5-{size + 100}": whole.content[5:],
    }.items():
        answer = call(f"/{SECRET}/video", params={"uri": uri}, headers={"Range": asked})
        assert (answer.status_code, answer.content) == (206, part), asked
    for asked in (f"bytes={size}-", "bytes=9-5", "bytes=-", "lines=1-2", "bytes=0-1,5-6"):
        answer = call(f"/{SECRET}/video", params={"uri": uri}, headers={"Range": asked})
        assert answer.status_code == 416 and answer.headers["content-range"] == f"bytes */{size}"
    image = next(u for u in catalog.scan("enrichments").collect()["uri"] if u.endswith(".png"))
    assert call(f"/{SECRET}/video", params={"uri": image}).status_code == 415


def test_a_picture_is_made_here_and_never_passed_on(call: Caller, catalog: Catalog) -> None:
    uris = catalog.scan("enrichments").filter(pl.col("media_kind") == "image").select("uri").unique().collect()["uri"]
    for uri in uris:
        answer = call(f"/{SECRET}/picture", params={"uri": uri})
        assert answer.headers["content-type"] in ("image/png", "image/jpeg")
        assert b"GPS-of-home" not in answer.content


def test_media_that_have_changed_are_told_so(call: Caller, catalog: Catalog) -> None:
    uri = next(u for u in sorted(catalog.scan("enrichments").collect()["uri"]) if u.endswith("changed.png"))
    Path(uri.removeprefix("file://")).write_bytes(b"something else")
    answer = call(f"/{SECRET}/thumbnail", params={"uri": uri})  # a preview that was made before may be shown
    assert answer.status_code == 410 and "replaced since" in answer.text


def test_a_browser_is_opened_without_the_secret_among_its_arguments(
    call: Caller, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sightflow.infra.cli.gallery import show
    from sightflow.infra.gallery import server

    opened, found = list[str](), list[str]()

    def opens(url: str) -> bool:
        opened.append(url)
        file = Path(url.removeprefix("file://"))
        assert file.parent.stat().st_mode & 0o077 == 0
        found.append(file.read_text())
        return True

    monkeypatch.setattr("webbrowser.open", opens)
    monkeypatch.setattr(server, "serve", lambda application, listener, ready: (ready(), listener.close()))
    index = CatalogIndex(catalog)
    show(Gallery(catalog, Media(ObjectStore(), catalog.uri), index, (catalog.uri, None)), 0, True, [])
    index.close()
    (address,) = re.findall(r"^http://127.*$", capsys.readouterr().out, re.MULTILINE)
    assert address in found[0] and urlsplit(address).path.strip("/") not in opened[0]
