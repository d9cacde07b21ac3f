"""A list at an https:// address, of objects at https:// addresses, from the spec to the catalog."""

from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.flows.enrich import enrich
from sightflow.schemas.failure import EmptySource, SpecError
from sightflow.schemas.spec_reader import read_spec
from tests.e2e.test_incremental import flat
from tests.loopback.web.server import WebServer

pytestmark = pytest.mark.usefixtures("prefect_server", "stand_in")


def test_what_a_list_names_is_asked_about_once_and_again_when_it_changes(
    tmp_path: Path, write_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WebServer(tmp_path) as web:
        monkeypatch.setenv("SSL_CERT_FILE", str(web.certificate))
        a = web.put("/in/a%20b.png", flat((1, 2, 3)))
        b = web.put("/in/picture?id=7", flat((4, 5, 6)))
        elsewhere = web.put("/out/c.png", flat((7, 8, 9)))
        odd = [a.replace("%20", " ") + "#again", elsewhere, f"{web.url}/in/none.png", "https://me:pw@h/in/d.png"]
        store = {"private_addresses": True}
        listing = web.put("/list.txt", "\n".join([a, b, *odd]).encode())
        spec = read_spec(write_spec(f"{web.url}/in/**", listing=listing, store=store))
        catalog = Catalog(uri=spec.catalog)
        assert enrich(spec).published == 2
        assert sorted(catalog.scan("enrichments").collect()["uri"]) == [a, b]
        assert enrich(spec).published == 0
        web.put("/in/picture?id=7", flat((9, 9, 9)))
        del web.pages["/in/a%20b.png"]
        report = enrich(spec)
        assert (report.published, report.pruned) == (1, 0)
        # What is named in no list any more is not gone for that.
        web.put("/list.txt", b"")
        with pytest.raises(EmptySource, match="lists no object"):
            enrich(spec)
        assert catalog.scan("enrichments").collect().height == 2


def test_a_catalog_is_not_written_to_the_web(write_spec: Any) -> None:
    with pytest.raises(SpecError, match="can only be read"):
        read_spec(write_spec("https://h.example/a.png", catalog="https://h.example/catalog"))
    with pytest.raises(SpecError, match="holds a user name or a password"):
        read_spec(write_spec("https://me:pw@h.example/a.png"))
