"""Objects at https:// addresses: their version, their bytes, what proves that one is gone, and what is never asked."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.store.object_store import ObjectStore
from sightflow.blocks.store.uri_lists import read_uri_list
from sightflow.blocks.store.web.session import is_public
from sightflow.schemas.failure import Cause, Failure, StoreError, StoreRefusal
from sightflow.schemas.run.discovered import Skips
from tests.loopback.http_server import OnLoopback, QuietHandler
from tests.loopback.web.server import WebServer

CHANGED = datetime(2026, 11, 25, 2, tzinfo=UTC)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    with WebServer(tmp_path) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        yield server


@pytest.fixture
def store() -> ObjectStore:
    return ObjectStore(private_addresses=True, attempts=2, timeout=10)


def looked_up(store: ObjectStore, *uris: str) -> dict[str, Any]:
    failed: dict[str, Failure] = {}
    found = store.head_many(uris, failed)
    return {row["uri"]: row for row in found.iter_rows(named=True)} | failed


# --- versions ---------------------------------------------------------------------------------------


def test_an_object_has_the_version_that_its_server_tells(web: WebServer, store: ObjectStore) -> None:
    a = web.put("/a.png", b"12345", etag='"one"', changed=CHANGED)
    b = web.put("/b%20%C3%A4.png?x=1", b"123", etag='W/"two"', knows_head=False)
    c = web.put("/c", b"1", etag="", changed=CHANGED)
    d = web.put("/d", b"12", etag="")
    e = web.put("/e", b"12", etag='"' + "e" * 5000 + '"')
    found = looked_up(store, a, b, c, d, e)
    assert [found[uri]["bytes"] for uri in (a, b, c, d)] == [5, 3, 1, 2]
    versions = [found[uri]["object_version"] for uri in (a, b, c, d)]
    assert versions == ["one-5", 'W/"two-3', "Wed, 25 Nov 2026 02:00:00 GMT-1", "2 bytes-2"]
    assert len(found[e]["object_version"]) < 100
    assert found[a]["modified"] == CHANGED and found[b]["modified"] is None
    wanted = [(uri, found[uri]["object_version"]) for uri in (a, b, c, d, e)]
    assert store.read_many(wanted, 100) == [b"12345", b"123", b"1", b"12", b"12"]
    assert [store.read_part(each, 1, 3) for each in wanted] == [b"234", b"23", b"", b"2", b"2"]


def test_a_server_that_does_not_say_how_large_an_object_is_costs_the_others_nothing(
    web: WebServer, store: ObjectStore
) -> None:
    a, b = web.put("/a.png", b"1"), web.put("/b.png", b"1", says_length=False, ranges=False)
    found = looked_up(store, a, b)
    assert found[a]["bytes"] == 1 and isinstance(found[b], Failure)


@pytest.mark.parametrize("facts", [{}, {"etag": "", "changed": CHANGED}, {"etag": ""}])
def test_what_was_replaced_is_not_given_for_what_was_planned(
    web: WebServer, store: ObjectStore, facts: dict[str, Any]
) -> None:
    uri = web.put("/a.png", b"12345", **facts)
    version = looked_up(store, uri)[uri]["object_version"]
    web.put("/a.png", b"654321", **facts | ({"changed": CHANGED.replace(hour=3)} if "changed" in facts else {}))
    (failure,) = store.read_many([(uri, version)], 100)
    assert isinstance(failure, Failure) and failure.cause is Cause.CHANGED and "replaced" in failure.message


def test_bytes_are_bounded_and_a_body_that_ends_early_is_asked_for_again(
    web: WebServer, store: ObjectStore, tmp_path: Path
) -> None:
    large = web.put("/large.png", b"x" * 1000)
    flaky = web.put("/flaky.png", b"y" * 1000, statuses=[503])
    short = web.put("/short.png", b"z" * 1000, sends=10)
    whole, good, cut = store.read_many([(large, ""), (flaky, ""), (short, "")], 1000)
    assert whole == b"x" * 1000 and good == b"y" * 1000
    assert isinstance(cut, Failure) and cut.cause is Cause.FETCH and cut.attempts == 2
    (refused,) = store.read_many([(large, "")], 999)
    assert isinstance(refused, Failure) and refused.cause is Cause.TOO_LARGE
    (file,) = store.download_many([(large, "")], tmp_path, 1000)
    assert not isinstance(file, Failure) and file.path.read_bytes() == b"x" * 1000
    assert list(store.read_starts([large, f"{web.url}/none"], 5)) == [b"xxxxx", None]


# --- what is gone -----------------------------------------------------------------------------------


def test_only_two_answers_of_404_or_410_prove_that_an_object_is_gone(web: WebServer, store: ObjectStore) -> None:
    gone = [f"{web.url}/none", web.put("/410", b"", statuses=[410, 410]), web.put("/mixed", b"", statuses=[404, 410])]
    doubtful = [
        web.put("/there", b"", statuses=[404]),
        web.put("/denied", b"", statuses=[404, 403]),
        web.put("/away", b"", statuses=[404, 502, 502]),
        web.put("/login", b"", statuses=[401, 401]),
        web.put("/moved", b"", redirect=f"https://localhost:{web.url.rpartition(':')[2]}/none"),
    ]
    failed: dict[str, Failure] = {}
    assert store.gone([*gone, *doubtful], failed) == gone
    assert set(failed) == set(doubtful)


def test_a_server_that_refuses_everything_ends_the_run(web: WebServer, store: ObjectStore) -> None:
    uris = [web.put(f"/{k}.png", b"", statuses=[403] * 10) for k in range(4)]
    with pytest.raises(StoreRefusal, match="refuses all of the last"):
        store.read_many([(uri, "") for uri in uris], 100)


# --- where requests go ------------------------------------------------------------------------------


def test_redirects_are_followed_a_few_times_and_carry_nothing(
    web: WebServer, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password not-to-be-sent\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    web.put("/5", b"found")
    for k in range(5):
        web.put(f"/{k}", b"", redirect=f"/{k + 1}")
    start, beyond = f"{web.url}/0", web.put("/beyond", b"", redirect="/0")
    assert store.read_many([(start, "")], 100) == [b"found"]
    (failure,) = store.read_many([(beyond, "")], 100)
    assert isinstance(failure, Failure) and "redirects more than 5 times" in failure.message
    sent = [headers for _, _, headers in web.asked]
    assert not any({"authorization", "cookie", "referer"} & set(headers) for headers in sent)


@pytest.mark.parametrize(
    "target",
    ["http://{host}/a", "ftp://{host}/a", "https://me:secret@{host}/a", "file:///etc/passwd", "https://[::1"],
)
def test_a_redirect_to_what_is_no_plain_https_is_not_followed(web: WebServer, store: ObjectStore, target: str) -> None:
    web.put("/a", b"found")
    uri = web.put("/start", b"", redirect=target.format(host=web.url.removeprefix("https://")))
    (failure,) = store.read_many([(uri, "")], 100)
    assert isinstance(failure, Failure) and "redirects to" in failure.message and "secret" not in failure.message
    assert len(web.asked) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]"])
def test_a_private_address_is_not_asked_unless_that_is_allowed(web: WebServer, host: str) -> None:
    web.put("/a.png", b"inside")
    uri = f"https://{host}:{web.url.rpartition(':')[2]}/a.png"
    found = looked_up(ObjectStore(attempts=1, timeout=10), uri)
    assert isinstance(found[uri], Failure) and not web.asked
    if host not in ("127.1", "2130706433"):  # which aiohttp takes for no addresses
        assert "private_addresses: true" in found[uri].message


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::",
     "fe80::1%2", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::"],
)  # fmt: skip
def test_private_addresses_are_known_in_every_form(address: str) -> None:
    assert not is_public(address)
    assert is_public("93.184.215.14") and is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


def test_a_proxy_is_asked_also_where_it_is_on_a_private_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Proxy(OnLoopback):
        def handler(self) -> Any:
            class Handler(QuietHandler):
                def do_CONNECT(self) -> None:
                    asked.append(self.path)
                    self.send_error(502)

            return Handler

    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    with Proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("https_proxy", proxy.url)
        store = ObjectStore(attempts=1, timeout=10)
        looked_up(store, "https://images.example.com/a.png")
        private = "https://10.0.0.1/a.png"
        assert "private" in looked_up(store, private)[private].message
    assert set(asked) == {"images.example.com:443"}


# --- lists and sources ------------------------------------------------------------------------------


def test_a_list_is_read_in_each_form_and_a_hostile_record_costs_no_other(web: WebServer, store: ObjectStore) -> None:
    uris = ["https://h.example/a.png", "https://h.example/b%20%C3%A4.png", "s3://shop/c.png"]
    given = ["https://H.example:443/x/../a.png#top", " https://h.example/b ä.png", "s3://shop/c.png"]
    odd = [
        "https://me:secret@h.example/a.png",
        "https://",
        "https://h.example/a?X-Amz-Signature=abcdefgh",
        "http://h/a",
    ]
    records = given + odd
    skips = Skips()
    lists = {
        "/l.txt?v=1": "\n".join(records),
        "/l.csv": "id,uri\n" + "\n".join(f'1,"{uri}"' for uri in records),
        "/l.jsonl": "\n".join(f'{{"uri": "{uri}"}}' for uri in records),
    }
    for path, text in lists.items():
        assert read_uri_list(store, web.put(path, text.encode(), says_length=path != "/l.csv"), skips) == uris
    assert sum(each.count for each in skips.summary) == len(odd) * len(lists)
    assert "secret" not in str(skips.summary)


def test_a_list_that_is_not_there_or_larger_than_any_is_said(
    web: WebServer, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match=r"there is no file .*/none\.txt"):
        read_uri_list(store, f"{web.url}/none.txt", Skips())
    monkeypatch.setattr("sightflow.blocks.store.web.backend._MOST_LIST_BYTES", 100)
    for says_length in (True, False):
        address = web.put("/long.txt", b"https://h.example/a\n" * 100, says_length=says_length)
        with pytest.raises(StoreRefusal, match="has more than"):
            read_uri_list(store, address, Skips())
    with pytest.raises(StoreRefusal, match="cannot be read: the answer is 403"):
        read_uri_list(store, web.put("/denied.txt", b"", statuses=[403]), Skips())


def test_a_source_names_its_objects_or_needs_a_list(web: WebServer, store: ObjectStore) -> None:
    one, skips = web.put("/a.png", b"1"), Skips()
    denied = web.put("/b.png", b"1", statuses=[403, 403])
    assert store.inventory([one, denied, f"{web.url}/none.png"], skips=skips)["uri"].to_list() == [one]
    assert not skips.complete or skips.unlisted
    with pytest.raises(StoreRefusal, match="give that as `listing`"):
        store.inventory([f"{web.url}/*.png"])
    for write in (lambda: store.write(one, b""), lambda: store.remove(one), lambda: store.list_prefix(one)):
        with pytest.raises(StoreRefusal, match="is only read"):
            write()
