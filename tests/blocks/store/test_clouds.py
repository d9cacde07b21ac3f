"""Google and Azure: what holds for objects in S3 holds for theirs, against emulators over real HTTP."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.store.object_store import ObjectStore
from sightflow.blocks.store.uri_lists import read_uri_list
from sightflow.schemas.failure import Cause, Failure, StoreError, StoreRefusal
from sightflow.schemas.media import MediaFile
from sightflow.schemas.run.discovered import Skips
from tests.clouds import Cloud
from tests.loopback.stores.google_storage import GoogleStorage
from tests.loopback.stores.s3_proxy import CutBody, Refuse, S3Proxy, Spoiled, Stall, Trickle

ODD_KEYS = [
    "plain.png", "folder/b c.png", "ünïcode/図.png", "50%.png", "%41.png", "what?#1.png", "a//b.png", "&=+;,'\"<>.png",
    "a line\nbreak.png", "~tilde.png", "[1]{2}*.png", "trailing ",
]  # fmt: skip
AT_GOOGLE = ["control\x01.png", "a/../b.png", "./c.png", "..", "/first", "back\\slash.png"]
"""Keys that Azure takes for others, or its emulator cannot list."""


def test_every_key_is_listed_looked_up_and_read_as_it_was_written(cloud: Cloud) -> None:
    store = cloud.store()
    keys = ODD_KEYS + (AT_GOOGLE if cloud.scheme == "gs" else [])
    uris = [cloud.put(f"in/{key}", key.encode()) for key in keys]
    cloud.put("in/marker/", b"")  # of a folder, made by consoles
    found = store.inventory([cloud.uri("in/")])
    assert sorted(found["uri"]) == sorted(uris) == sorted(set(store.list_prefix(cloud.uri("in/"))))
    assert found["bytes"].to_list() == [len(uri.removeprefix(cloud.uri("in/")).encode()) for uri in found["uri"]]
    assert found["modified"].null_count() == 0
    assert store.head_many(found["uri"].to_list()).equals(found)
    versions = list(found.select("uri", "object_version").iter_rows())
    assert store.read_many(versions, 100) == [uri.removeprefix(cloud.uri("in/")).encode() for uri, _ in versions]
    assert list(store.read_starts(uris, 3)) == [key.encode()[:3] for key in keys]
    assert store.list_prefix(cloud.uri("in/[1]")) == [cloud.uri("in/[1]{2}*.png")]


def test_a_name_that_azure_takes_for_another_is_refused_and_reads_nothing_else(azurite: Any, cloud: Cloud) -> None:
    if cloud.scheme != "az":
        pytest.skip("Google has such names")
    cloud.put("b.png", b"another")
    failed: dict[str, Failure] = {}
    uri = cloud.uri("a/../b.png")
    assert cloud.store().head_many([uri], failed).is_empty() and [*failed] == [uri]
    assert isinstance(cloud.store().read_many([(uri, "1-7")], 100)[0], Failure)


def test_a_new_version_is_told_from_the_planned_one(cloud: Cloud, tmp_path: Path) -> None:
    store = cloud.store()
    uris = [cloud.put(f"{k}.png", b"first") for k in range(4)]
    planned = list(store.inventory([cloud.uri("")]).select("uri", "object_version").iter_rows())
    cloud.put("1.png", b"newer")
    cloud.delete("2.png")
    read = store.read_many(planned, 100)
    assert read[0] == read[3] == b"first"
    told = [(failure.cause, failure.message) for failure in read[1:3] if isinstance(failure, Failure)]
    assert told[0] == (Cause.CHANGED, "replaced since it was listed")
    # Azurite answers a condition before it looks whether the blob is there.
    assert told[1][0] is Cause.CHANGED and told[1][1].endswith("since it was listed")
    files = store.download_many(planned, tmp_path, 100)
    assert [isinstance(file, MediaFile) for file in files] == [True, False, False, True]
    assert len(list(tmp_path.iterdir())) == 2
    assert store.read_part(planned[0], 1, 3) == b"irs" and store.read_part(planned[0], 3, 100) == b"st"
    changed = store.read_part(planned[1], 1, 3)
    assert isinstance(changed, Failure) and changed.cause is Cause.CHANGED
    (failure,) = store.read_many(planned[:1], 4)
    assert isinstance(failure, Failure) and failure.cause is Cause.TOO_LARGE
    assert store.read(uris[1]) == b"newer" and store.read(uris[2]) is None


def test_a_listing_has_every_object_once_however_small_its_pages(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, google_storage: GoogleStorage
) -> None:
    uris = {cloud.put(f"in/{k % 3}/{k:02d}.png", b"x") for k in range(12)}
    cloud.put("in.png", b"x")
    monkeypatch.setattr(google_storage, "page", 2)
    backend = cloud.store().backend
    whole = type(backend(next(iter(_schemes(cloud))))._client).list_page  # type: ignore[attr-defined]

    async def small(client: Any, **arguments: Any) -> Any:
        return await whole(client, **{"MaxKeys": 2, **arguments})

    monkeypatch.setattr(type(backend(next(iter(_schemes(cloud))))._client), "list_page", small)  # type: ignore[attr-defined]
    found = cloud.store(concurrency=4).inventory([cloud.uri("in/**/*.png")])
    assert len(found) == 12 and set(found["uri"]) == uris
    assert cloud.store().inventory([cloud.uri("in.png")])["uri"].to_list() == [cloud.uri("in.png")]


def _schemes(cloud: Cloud) -> set[Any]:
    from sightflow.schemas.object_uri import Scheme

    return {Scheme(cloud.scheme)}


def spoiling(name: str, answer: Spoiled, methods: str = "HEAD GET") -> Callable[[BaseHTTPRequestHandler, int], Spoiled]:
    def spoil(http: BaseHTTPRequestHandler, _: int) -> Spoiled:
        return answer if http.path.partition("?")[0].endswith(name) and http.command in methods else None

    return spoil


DENIED = {"az": "AuthorizationPermissionMismatch", "gs": "AccessDenied"}
ABSENT = {"az": "BlobNotFound", "gs": "NoSuchKey"}
BAD_KEYS = {"az": "AuthenticationFailed", "gs": "InvalidSecurity"}


def error(code: str, message: str = "") -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"


@pytest.mark.parametrize("fault", ["refused", "a page", "a page of an error", "away", "another code"])
def test_an_object_is_gone_only_if_the_store_itself_says_so(cloud: Cloud, fault: str) -> None:
    good, bad, gone = cloud.put("good.png", b"x"), cloud.put("bad.png", b"x"), cloud.uri("gone.png")
    page = "<html><body>Sign in</body></html>"
    answers = {
        "refused": Refuse(403, error(DENIED[cloud.scheme])),
        "a page": Refuse(200, page),
        "a page of an error": Refuse(404, page),
        "away": Refuse(502, page),
        "another code": Refuse(404, error("ResourceNotFound")),
    }
    with S3Proxy(cloud.endpoint, spoiling("bad.png", answers[fault])) as proxy:
        store = cloud.store(proxy.url, attempts=1)
        failed: dict[str, Failure] = {}
        assert store.head_many([bad, gone, good], failed)["uri"].to_list() == [good]
        assert [*failed] == [bad] and failed[bad].cause is Cause.FETCH
        doubtful: dict[str, Failure] = {}
        assert store.gone([bad, gone, good], doubtful) == [gone] and [*doubtful] == [bad]


def test_no_object_of_a_missing_bucket_is_gone_and_refused_keys_stop_a_run(cloud: Cloud) -> None:
    uri, missing = cloud.put("0.png", b"x"), f"{cloud.scheme}://not-here-{cloud.bucket}/a.png"
    for ask in (
        lambda: cloud.store().gone([missing], {}),
        lambda: cloud.store().inventory([missing]),
        lambda: cloud.store().write(missing, b"x"),
        lambda: cloud.store().check_writable(missing),
        lambda: cloud.store().check(missing),
    ):
        with pytest.raises(StoreRefusal, match=r"there is no (bucket|container) 'not-here-"):
            ask()
    with S3Proxy(cloud.endpoint, lambda http, _: Refuse(403, error(BAD_KEYS[cloud.scheme]))) as proxy:
        store = cloud.store(proxy.url)
        for ask in (lambda: store.head_many([uri]), lambda: store.read_many([(uri, "1-1")], 9)):
            with pytest.raises(StoreRefusal, match="check the"):
                ask()
        assert proxy.refusals < 5, "what is refused for its keys was sent again"
        too_old = Refuse(403, error(BAD_KEYS[cloud.scheme], "Request date header too old"))
        proxy.spoil = lambda http, _: too_old
        with pytest.raises(StoreRefusal, match="set this machine's clock"):
            store.check(cloud.uri(""))


@pytest.mark.parametrize("fault", [Refuse(503, "<Error><Code>ServerBusy</Code></Error>"), Refuse(429, ""), CutBody()])
def test_what_may_succeed_is_asked_again(cloud: Cloud, fault: Any) -> None:
    uri = cloud.put("a.png", b"content")
    planned = list(cloud.store().inventory([uri]).select("uri", "object_version").iter_rows())

    def spoil(http: BaseHTTPRequestHandler, times: int) -> Spoiled:
        return fault if times == 1 and http.command == "GET" else None

    with S3Proxy(cloud.endpoint, spoil) as proxy:
        assert cloud.store(proxy.url).read_many(planned, 100) == [b"content"]
        listed = cloud.store(proxy.url).inventory([cloud.uri("")])
        assert listed["uri"].to_list() == [uri]


@pytest.mark.parametrize("fault", [Stall(), Trickle()])
def test_a_body_that_does_not_come_is_given_up(cloud: Cloud, fault: Any) -> None:
    uri = cloud.put("a.png", bytes(2000))
    with S3Proxy(cloud.endpoint, lambda http, _: fault) as proxy:
        store = cloud.store(proxy.url, attempts=1, timeout=0.5)
        (failure,) = store.read_many([(uri, "")], 10_000)
        assert isinstance(failure, Failure) and failure.cause is Cause.FETCH
        with pytest.raises(StoreError, match="does not answer"):
            store.inventory([cloud.uri("")])


def test_what_is_no_listing_and_what_has_no_end_is_none(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    from sightflow.blocks.store.buckets import http as bounded

    monkeypatch.setattr(bounded, "_LARGEST_ANSWER", 1 << 20)
    root = {"az": "EnumerationResults", "gs": "ListBucketResult"}[cloud.scheme]
    bodies = [
        "<html></html>", f"<{root}></{root}>", "{}", "", f"<!DOCTYPE x><{root}/>",
        f"<{root}><Name>another</Name><IsTruncated>false</IsTruncated><Blobs/><NextMarker/></{root}>",
    ]  # fmt: skip
    with S3Proxy(cloud.endpoint, lambda http, _: Refuse(200, bodies[0])) as proxy:
        store = cloud.store(proxy.url, attempts=1)
        while bodies:
            with pytest.raises(StoreError, match="did not answer with a listing"):
                store.inventory([cloud.uri("")])
            bodies.pop(0)
            bodies or setattr(proxy, "spoil", lambda http, _: Refuse(200, "x" * (1 << 21)))
        with pytest.raises(StoreError, match="that are no object"):
            store.inventory([cloud.uri("")])


def test_a_store_that_takes_a_second_write_is_refused(cloud: Cloud) -> None:
    cloud.store().check_writable(cloud.uri("catalog"))
    assert cloud.store().list_prefix(cloud.uri("")) == []
    with S3Proxy(cloud.endpoint, lambda http, _: Refuse(201, "") if http.command == "PUT" else None) as proxy:
        with pytest.raises(StoreRefusal, match=r"ignores (If-None-Match|x-goog-if-generation-match), so that two runs"):
            cloud.store(proxy.url).check_writable(cloud.uri("catalog"))
        proxy.spoil = lambda http, _: Refuse(403, error(DENIED[cloud.scheme])) if http.command == "PUT" else None
        with pytest.raises(StoreRefusal, match="refuses to let us write"):
            cloud.store(proxy.url).check_writable(cloud.uri("catalog"))


def test_a_list_names_objects_of_its_account_only(cloud: Cloud) -> None:
    if cloud.scheme != "az":
        pytest.skip("Google's URIs name no account")
    named = [
        f"abfss://{cloud.bucket}@{account}.dfs.core.windows.net/a.png" for account in ("devstoreaccount1", "other")
    ]
    address = cloud.put("list.txt", "\n".join([*named, cloud.uri("b.png")]).encode())
    skips = Skips()
    assert read_uri_list(cloud.store(), address, skips) == [cloud.uri("a.png"), cloud.uri("b.png")]
    assert len(skips.summary) == 1


def test_without_an_account_it_is_said_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreRefusal, match="no Azure storage account is named; set AZURE_STORAGE_ACCOUNT_NAME"):
        ObjectStore().inventory(["az://container/"])
