"""A URI is the place that it names: no key is changed on the way, and no two keys become one."""

import pickle
import re

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sightflow.schemas.object_uri import ROOT_PATTERN, URI_PATTERN, InvalidUriError, ObjectUri, Scheme, split_scheme

ODD = "/.:%?#&+ \\\n\t\x00\x7fa0é図\U0001f600"
keys = st.one_of(st.text(st.sampled_from(ODD), max_size=16), st.text(max_size=30))
buckets = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=20)
in_buckets = st.builds(ObjectUri, st.sampled_from([s for s in Scheme if s.has_buckets]), buckets, keys)
local = st.builds(ObjectUri, st.just(Scheme.FILE), st.just(""), keys)
uris = st.one_of(in_buckets, local)

ODD_KEYS = [
    "",
    "/",
    "//",
    "a//b",
    "/a",
    "a/",
    "./a",
    "a/../b",
    "50%",
    "%2F",
    "what?#1",
    "s3://other/x",
    "a\nb",
    "é",
    "e\u0301",
]


@given(uris)
@example(ObjectUri(Scheme.S3, "bucket", "a//b/../c%20?x#y"))
def test_what_is_parsed_is_what_was_written(uri: ObjectUri) -> None:
    assert ObjectUri.parse(str(uri)) == uri
    assert str(ObjectUri.parse(str(uri))) == str(uri)
    assert pickle.loads(pickle.dumps(uri)) == uri


@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_key_stands_in_its_uri_as_it_is(key: str) -> None:
    assert str(ObjectUri(Scheme.S3, "bucket", key)) == f"s3://bucket/{key}"
    assert ObjectUri.parse(f"s3://bucket/{key}") == ObjectUri(Scheme.S3, "bucket", key)
    assert ObjectUri.parse(f"file:///{key}").local_path == f"/{key}"


@given(uris, uris)
def test_two_places_have_two_texts(one: ObjectUri, other: ObjectUri) -> None:
    assert (str(one) == str(other)) == (one == other)


@given(uris, st.text(st.sampled_from(ODD), max_size=8))
def test_what_is_joined_to_a_folder_is_in_it(folder: ObjectUri, name: str) -> None:
    inside = folder.join(name)
    assert inside.key.endswith(name) and inside.key.startswith(folder.key)
    assert inside.name == name.rpartition("/")[2]
    assert inside == folder.with_key(inside.key)


def test_a_bucket_alone_is_its_root() -> None:
    assert str(ObjectUri.parse("s3://bucket")) == "s3://bucket/"
    assert str(ObjectUri.parse("s3://bucket").join("a")) == "s3://bucket/a"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ftp://bucket/key", "has the scheme 'ftp'; allowed: s3://bucket/key, "),
        ("S3://bucket/key", "has the scheme 'S3'"),
        ("://bucket/key", "has the scheme ''"),
        ("s3://", "names no bucket; write s3://bucket/key"),
        ("s3:///key", "names no bucket"),
        ("file://folder/name", "is no absolute path; write file:///folder/name"),
        ("file://", "is no absolute path"),
        ("/folder/name", "is no absolute path"),
        ("", "is no absolute path"),
    ],
)
def test_what_names_no_place_is_refused_in_words(text: str, says: str) -> None:
    with pytest.raises(InvalidUriError, match=re.escape(says)) as raised:
        ObjectUri.parse(text)
    assert repr(text) in str(raised.value)


@given(st.text(max_size=30))
def test_any_text_is_a_uri_or_refused_in_words(text: str) -> None:
    try:
        uri = ObjectUri.parse(text)
    except InvalidUriError:
        return
    assert str(uri) in (text, text + "/")


def test_a_path_is_not_a_bucket() -> None:
    assert ObjectUri.from_path("/a folder/50%").local_path == "/a folder/50%"
    with pytest.raises(InvalidUriError, match="no absolute path"):
        ObjectUri.from_path("folder")
    with pytest.raises(ValueError, match="no local file"):
        _ = ObjectUri.parse("s3://bucket/key").local_path
    assert split_scheme("a folder/x") == (Scheme.FILE, "a folder/x")


@given(st.lists(uris, min_size=1, max_size=5))
def test_the_patterns_for_frames_say_the_same(some: list[ObjectUri]) -> None:
    texts = pl.Series([str(uri) for uri in some])
    assert texts.str.contains(URI_PATTERN).all()
    assert texts.str.replace(ROOT_PATTERN, "").to_list() == [uri.key for uri in some]
