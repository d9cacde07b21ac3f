"""A store whose answers do not end: what is no object is held up to a bound, whatever it is an answer to."""

from http.server import BaseHTTPRequestHandler

import pytest

from sightflow.blocks.store.object_store import ObjectStore
from sightflow.blocks.store.s3 import answers as s3_answers
from sightflow.schemas.failure import Failure, StoreError
from tests.loopback.http_server import OnLoopback, QuietHandler

MIB = 2**20


class Endless(OnLoopback):
    """Answers every request with a body that does not end; `sent` is how many bytes of the last one went out."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status, self.sent = status, 0

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                self.send_response(server.status)
                self.send_header("Content-Type", "application/xml")
                self.end_headers()
                server.sent = self.wfile.write(b"<ListBucketResult><Name>photos</Name>")
                self.close_connection = True
                try:
                    while True:
                        server.sent += self.wfile.write(b" " * MIB)
                except OSError:
                    return

            do_PUT = do_GET

        return Handler


@pytest.mark.parametrize("status", [200, 403, 404, 500])
def test_no_answer_is_held_past_the_bound(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_answers, "_LARGEST_ANSWER", 4 * MIB)
    with Endless(status) as server:
        store = ObjectStore(endpoint_url=server.url, attempts=1)
        with pytest.raises(StoreError, match="more than 4 MiB"):
            store.inventory(["s3://photos/**"])
        assert server.sent < 64 * MIB
        with pytest.raises(StoreError):
            store.write("s3://photos/a", b"x")
        (read,) = store.read_many([("s3://photos/a", "v-1")], MIB) if status != 200 else [Failure]
        assert read is Failure or isinstance(read, Failure)
