"""What a store answers when it is listed: it is read, or the store is said to be at fault."""

from contextlib import suppress
from http.server import BaseHTTPRequestHandler

import pytest

from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.failure import StoreError
from sightflow.schemas.run.discovered import Skips
from tests.fuzz.mutation import fuzz, mutated
from tests.loopback.http_server import OnLoopback, QuietHandler

_OBJECT = (
    b"<Contents><Key>in/%s.png</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag>"
    b"<Size>3</Size></Contents>"
)
_PAGE = (
    b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<Name>photos</Name><Prefix>in/</Prefix><KeyCount>2</KeyCount>%s<IsTruncated>%s</IsTruncated>%s</ListBucketResult>"
)
LAST = _PAGE % (_OBJECT % b"z", b"false", b"")
PAGES = [
    _PAGE % (_OBJECT % b"a" + _OBJECT % b"b", b"false", b""),
    _PAGE % (_OBJECT % b"a" + _OBJECT % b"b", b"true", b"<NextContinuationToken>t</NextContinuationToken>"),
]
NO_PAGES = {
    "html": b"<html><body>Sign in</body></html>",
    "nothing": b"",
    "no next page": _PAGE % (_OBJECT % b"a", b"true", b""),
    "no key": _PAGE % (_OBJECT.replace(b"<Key>in/%s.png</Key>", b""), b"false", b""),
}
ODD_ENTRIES = {
    "no size": _PAGE % (_OBJECT.replace(b"<Size>3</Size>", b"") % b"a", b"false", b""),
    "less than nothing": _PAGE % (_OBJECT.replace(b">3<", b">-3<") % b"a", b"false", b""),
    "too large for a number": _PAGE % (_OBJECT.replace(b">3<", b">9999999999999999999<") % b"a", b"false", b""),
}


class Lister(OnLoopback):
    """Answers with the pages it is given, one a request; then with one that is the last."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: list[bytes] = []

    def handler(self) -> type[BaseHTTPRequestHandler]:
        lister = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                page = lister.pages.pop() if lister.pages else LAST
                self.send_response(200)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

        return Handler


@pytest.mark.parametrize("page", NO_PAGES.values(), ids=NO_PAGES)
def test_what_is_no_page_of_a_listing_is_no_empty_bucket(page: bytes) -> None:
    with Lister() as lister:
        lister.pages = [page]
        with pytest.raises(StoreError, match="did not answer with a listing of s3://photos/in/"):
            ObjectStore(endpoint_url=lister.url, attempts=1).inventory(["s3://photos/in/**"])


@pytest.mark.parametrize("page", ODD_ENTRIES.values(), ids=ODD_ENTRIES)
def test_an_entry_without_a_size_is_left_out_and_told(page: bytes) -> None:
    with Lister() as lister:
        lister.pages, skips = [page], Skips()
        found = ObjectStore(endpoint_url=lister.url, attempts=1).inventory(["s3://photos/in/**"], skips=skips)
    assert found.is_empty() and skips.unlisted == {"s3://photos/in/a.png"}


def test_a_listing_is_read_or_the_store_is_at_fault(seconds: float) -> None:
    with Lister() as lister:
        store = ObjectStore(endpoint_url=lister.url, attempts=1, timeout=5)

        def read(page: bytes) -> None:
            lister.pages = [page]
            with suppress(StoreError):
                assert store.inventory(["s3://photos/in/**"]).height < 1000

        fuzz(read, mutated([*PAGES, *NO_PAGES.values(), *ODD_ENTRIES.values()]), seconds)
