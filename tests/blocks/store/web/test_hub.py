"""Datasets of a hub: listed in pages, read at the version that was listed, with a token that goes nowhere else."""

from collections.abc import Iterator
from typing import Any

import pytest

from sightflow.blocks.store.object_store import ObjectStore
from sightflow.blocks.store.uri_lists import read_uri_list
from sightflow.schemas.failure import Cause, Failure, StoreError, StoreRefusal
from sightflow.schemas.run.discovered import Skips
from sightflow.schemas.source_pattern import canonical_source
from sightflow.schemas.web.dataset import Dataset, split_dataset
from tests.loopback.web.dataset_hub import DatasetHub, FilesOnLoopback

ROOT = "hf://datasets/owner/name"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetHub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with FilesOnLoopback() as storage, DatasetHub(storage) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
        yield server


@pytest.fixture
def store() -> ObjectStore:
    return ObjectStore(attempts=2, timeout=10)


def listed(store: ObjectStore, *patterns: str, skips: Skips | None = None) -> list[str]:
    return sorted(store.inventory([canonical_source(each) for each in patterns], skips=skips or Skips())["uri"])


def test_a_dataset_is_listed_in_pages_and_read_with_a_token_that_goes_to_the_hub_alone(
    hub: DatasetHub, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_" + "t" * 30
    monkeypatch.setenv("HF_TOKEN", hub.token)
    contents = {hub.put(f"in/{name}.jpg", name.encode(), large=k % 2 == 0): name for k, name in enumerate("abcdé")}
    odd = hub.put("in/ä b+%20#?.jpg", b"odd")
    hub.put("elsewhere/a.jpg", b"elsewhere")
    assert listed(store, f"{ROOT}/in/*.jpg") == sorted([*contents, odd])
    assert listed(store, f"{ROOT}/in") == sorted([*contents, odd]) == listed(store, f"{ROOT}/in/")
    assert len(listed(store, ROOT)) == 7 and listed(store, f"{ROOT}/in/a.jpg") == [f"{ROOT}/in/a.jpg"]
    found = store.inventory([f"{ROOT}/in/"])
    wanted = list(zip(found["uri"], found["object_version"], strict=True))
    read = store.read_many(wanted, 100)
    assert [contents.get(uri, "odd").encode() for uri, _ in wanted] == read
    assert list(store.read_starts([odd], 2)) == [b"od"]
    (odd_one,) = (each for each in wanted if each[0] == odd)
    whole = store.read_part(odd_one, 1, 9)  # this server knows no ranges: nothing is given for a part that is none
    assert isinstance(whole, Failure) and "no ranges" in whole.message
    assert hub.storage.headers and not any("authorization" in headers for headers in hub.storage.headers)


def test_what_was_replaced_is_changed_and_what_is_gone_is_so_by_the_hub_s_own_word(
    hub: DatasetHub, store: ObjectStore
) -> None:
    small, large, gone = hub.put("a.jpg", b"1"), hub.put("b.jpg", b"2", large=True), hub.put("c.jpg", b"3")
    found = store.inventory([f"{ROOT}/"])
    wanted = list(zip(found["uri"], found["object_version"], strict=True))
    assert store.head_many([small, large, gone]).select("uri", "object_version").rows() == wanted
    hub.put("a.jpg", b"9")
    hub.put("b.jpg", b"8", large=True)
    del hub.revisions["main"].files["c.jpg"]
    read = store.read_many(wanted, 100)
    assert [each.cause for each in read if isinstance(each, Failure)] == [Cause.CHANGED] * 3
    failed: dict[str, Failure] = {}
    other, none = "hf://datasets/owner/other/a.jpg", "hf://datasets/only-an-owner"
    hub.spoil["b.jpg"] = {"size": -1}
    assert store.gone([small, gone, other, none], failed) == [gone] and set(failed) == {other, none}
    assert store.gone([large, gone], doubtful := {}) == [] and gone in doubtful


def test_a_revision_is_its_own_place(hub: DatasetHub, store: ObjectStore) -> None:
    hub.put("a.jpg", b"main")
    uri = hub.put("a.jpg", b"tagged", revision="refs/pr/1")
    assert uri == f"{ROOT}@refs%2Fpr%2F1/a.jpg"
    assert listed(store, f"{ROOT}@refs%2Fpr%2F1/*.jpg") == [uri]
    assert store.read_many([(uri, ""), (f"{ROOT}/a.jpg", "")], 10) == [b"tagged", b"main"]
    with pytest.raises(StoreRefusal, match=r"RevisionNotFound.*check the name and the revision"):
        listed(store, f"{ROOT}@v9/*.jpg")


def test_what_is_not_there_or_not_ours_is_said(
    hub: DatasetHub, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put("a.jpg", b"1")
    assert listed(store, f"{ROOT}/no/such/folder/*.jpg") == []
    with pytest.raises(StoreRefusal, match="hf://datasets/owner/other/ cannot be listed: the answer is 401"):
        listed(store, "hf://datasets/owner/other/*.jpg")
    hub.token = "another"
    monkeypatch.setenv("HF_TOKEN", "hf_" + "wrong" * 6)
    with pytest.raises(StoreRefusal, match="HF_TOKEN") as raised:
        store.check(f"{ROOT}/*.jpg")
    assert "wrong" not in str(raised.value)
    with pytest.raises(StoreRefusal, match="only read"):
        store.write(f"{ROOT}/a.jpg", b"")


@pytest.mark.parametrize(
    "odd", [{"path": 1}, {"path": ""}, {"size": "1"}, {"oid": "../x"}, {"lfs": {"oid": 1}}, {"type": "link"}]
)
def test_an_entry_that_makes_no_sense_costs_no_other_and_is_told(
    hub: DatasetHub, store: ObjectStore, odd: dict[str, Any]
) -> None:
    hub.put("a.jpg", b"1")
    good, skips = hub.put("b.jpg", b"2"), Skips()
    hub.spoil["a.jpg"] = odd
    assert listed(store, f"{ROOT}/*.jpg", skips=skips) == [good] and skips.summary


def test_pages_that_go_in_circles_are_an_error(hub: DatasetHub, store: ObjectStore) -> None:
    hub.put("a.jpg", b"1")
    hub.circles = True
    with pytest.raises(StoreError, match="go in circles"):
        listed(store, f"{ROOT}/*.jpg")


def test_a_list_may_lie_in_a_dataset(hub: DatasetHub, store: ObjectStore) -> None:
    address = hub.put("lists/all.txt", f"{ROOT}/a.jpg\nhttps://h.example/b.jpg\n".encode())
    assert read_uri_list(store, address, Skips()) == [f"{ROOT}/a.jpg", "https://h.example/b.jpg"]


@pytest.mark.parametrize(
    "text", ["hf://datasets/squad/*", "hf://owner/model/a", "hf://datasets/*/name/a", "hf://datasets/o/n@/a", "hf://"]
)
def test_a_source_names_one_dataset(text: str) -> None:
    with pytest.raises(ValueError, match=r"write hf://"):
        canonical_source(text)
    assert split_dataset(f"{ROOT}@v1/a/b") == (Dataset("owner/name", "v1"), "a/b")
