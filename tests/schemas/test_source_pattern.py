"""A source has one form, however it is spelled, and what looks like a pattern and is a name is that name."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from fsspec.utils import glob_translate
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sightflow.blocks.store.patterns import source_filter
from sightflow.schemas.source_pattern import alternatives, canonical_place, canonical_source, escape, literal_prefix
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.spec_reader import read_spec


def spec(source: Any, catalog: str = "s3://bucket/catalog", **more: Any) -> EnrichmentSpec:
    asked = {"source": source, "catalog": catalog, "enrichments": [{"capability": "image captioning"}]}
    return EnrichmentSpec.model_validate(asked | more)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in ("media/deep", "home/pictures", "data [v2]", "{a,b}"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "media/x.png").write_bytes(b"x")
    (tmp_path / "link").symlink_to("media")
    (tmp_path / "linked.png").symlink_to("media/x.png")
    return tmp_path


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("media", "media/"),
        ("media/", "media/"),
        ("./media", "media/"),
        ("media//deep/..", "media/"),
        ("media/../media/*.png", "media/*.png"),
        ("media//*/./x.png", "media/*/x.png"),
        (" media ", "media/"),
        ("file://media", "media/"),
        ("file://{here}/media", "media/"),
        ("file:{here}/media/**", "media/**"),
        ("file://localhost{here}/media", "media/"),
        ("{here}//media/", "media/"),
        ("link", "media/"),
        ("link/*.png", "media/*.png"),
        ("link/../media/x.png", "media/x.png"),
        ("linked.png", "linked.png"),  # a link to a file is an object of its own
        ("~/pictures", "home/pictures/"),
        ("~/pictures/*", "home/pictures/*"),
        ("file://~/pictures", "home/pictures/"),
        ("data [v2]", "data [[]v2]/"),
        ("data [v2]/*.png", "data [[]v2]/*.png"),
        ("data [[]v2]/*.png", "data [[]v2]/*.png"),
        ("data [v3]/*.png", "data [v3]/*.png"),
        ("{{a,b}}/x.png", "[{]a,b}/x.png"),
        ("{{a,c}}/x.png", "{a,c}/x.png"),
        ("nowhere.png", "nowhere.png"),
        ("nowhere/", "nowhere/"),
        (".", ""),
    ],
)
def test_a_local_source_has_one_form_however_it_is_spelled(here: Path, written: str, meant: str) -> None:
    text = written.format(here=here)
    (source,) = spec(text).source
    assert source == f"file://{here}/{meant}"
    assert spec(source).source == (source,)
    # A spec file says the same of its own folder, wherever the command is run.
    file = here / "spec.yaml"
    file.write_text(f"source: {text!r}\ncatalog: out\nenrichments: [{{capability: image captioning}}]\n")
    os.chdir("/")
    assert read_spec(file).source == (source,)
    assert EnrichmentSpec.model_validate_json(read_spec(file).model_dump_json()) == read_spec(file)


def test_a_path_is_as_good_as_its_text(here: Path) -> None:
    given = spec(here / "link", here / "link" / "catalog")  # type: ignore[arg-type]
    assert given == spec("link", "link/catalog") == spec([here / "media"], "media/catalog")


def test_a_folder_whose_name_looks_like_a_pattern_can_hold_the_spec(here: Path) -> None:
    file = here / "data [v2]" / "spec.yaml"
    file.write_text("source: '*.png'\ncatalog: out\nenrichments: [{capability: image captioning}]\n")
    found = read_spec(file)
    assert found.source == (f"file://{here}/data [[]v2]/*.png",)
    assert found.catalog == f"file://{here}/data [v2]/out"
    assert EnrichmentSpec.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    "written", ["catalog", "./catalog/", "media/../catalog", "link/../catalog", "file://{here}/catalog"]
)
def test_a_catalog_has_one_form_too(here: Path, written: str) -> None:
    assert spec("s3://bucket/", written.format(here=here)).catalog == f"file://{here}/catalog"


def test_the_catalog_is_no_part_of_its_source_however_it_is_spelled(here: Path) -> None:
    found = spec(["link/**", "media"], "link/deep/../catalog")
    in_source = source_filter(found.source, found.catalog)
    assert in_source(f"file://{here}/media/x.png") and in_source(f"file://{here}/media/catalogue/x.png")
    assert not in_source(f"file://{here}/media/catalog/enrichments/x.parquet")


def test_keys_of_a_bucket_are_not_changed() -> None:
    written = ("s3://bucket//a", "s3://bucket/a/../b/*", "s3://bucket/~/./x", "s3://bucket/file [1]", "s3://bucket/")
    assert spec(list(written)).source == written
    assert spec("s3://bucket").source == ("s3://bucket/",)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("media/*/../x", "behind a pattern"),
        ("s3://bucket/frame{1..9}.png", r"\{1,2,3\}"),
        ("s3://bucket/**.png", "stands alone"),
        ("s3://bucket/" + "{a,b}" * 11, "more than 1,000"),
        ("s3://buc*ket/x", "no valid bucket"),
        ("a\0b", "NUL"),
        ("s3:/bucket/x", "lacks slashes"),
        ("S3:bucket/x", "lacks slashes"),
        ("file:media", "lacks slashes"),
    ],
)
def test_what_can_match_nothing_is_refused(here: Path, source: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        spec(source)


@pytest.mark.parametrize(
    "catalog",
    [
        "/",
        "new[1]/catalog",
        "a|b",
        "new/*",
        *(f"s3://bucket/{key}" for key in ("./x", "a/../x", "/x", "a//x", "x/./", "..")),
    ],
)
def test_a_catalog_is_one_new_folder_with_a_plain_name(here: Path, catalog: str) -> None:
    with pytest.raises(ValidationError, match="catalog"):
        spec("s3://bucket/", catalog)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a", ["a"]),
        ("{a,b}", ["a", "b"]),
        ("x{a,b{c,d}}y{,e}", ["xay", "xaye", "xbcy", "xbcye", "xbdy", "xbdye"]),
        ("{a}", ["{a}"]),
        ("{{a,b}", ["{a", "{b"]),
        ("{x{a,b}}", ["{xa}", "{xb}"]),
        ("a,b}", ["a,b}"]),
        ("[{]a,b}", ["[{]a,b}"]),
        ("{[,],b}", ["[,]", "b"]),
    ],
)
def test_braces_are_those_of_the_shell(pattern: str, expected: list[str]) -> None:
    assert alternatives(pattern) == expected


texts = st.text(st.sampled_from("ab/*?[]{},!^. "), max_size=10)


@given(texts)
def test_an_escaped_text_stands_for_itself(text: str) -> None:
    uri = f"s3://bucket/{text}"
    assert alternatives(escape(uri)) == [escape(uri)]
    assert literal_prefix(escape(uri)) == uri
    assert source_filter([escape(uri)])(uri)


@given(texts, texts)
def test_all_that_a_pattern_matches_begins_with_its_literal_prefix(pattern: str, text: str) -> None:
    if "**" not in pattern:
        uri = f"s3://bucket/{text}"
        assert not source_filter([f"s3://bucket/{pattern}"])(uri) or uri.startswith(
            literal_prefix(f"s3://bucket/{pattern}")
        )


pieces = st.text(st.sampled_from("ab./\n*"), max_size=6)


@example("in/", "", "in/")
@example("in/", "b", "in/b")
@example("a", "a", "a")
@given(pieces, pieces, pieces)
def test_one_star_is_what_fsspec_makes_of_it(before: str, after: str, text: str) -> None:
    pattern = f"s3://bucket/{before}*{after}"
    if "**" in pattern or pattern.endswith("/"):
        return
    expression = re.compile(glob_translate(pattern))
    for uri in (f"s3://bucket/{text}", f"s3://bucket/{before}{text}{after}", f"s3://bucket/{before}{after}"):
        assert source_filter([pattern])(uri) == (expression.match(uri) is not None), (pattern, uri)


parts = st.sampled_from(["media", "link", "deep", "data [v2]", "/", "/", "..", ".", "*", "{a,b}", "~", "x", " "])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(written=st.lists(parts, max_size=6).map("".join))
def test_what_is_canonical_stays_as_it_is(here: Path, written: str) -> None:
    try:
        once = canonical_source(written, str(here))
    except ValueError:
        return
    assert canonical_source(once, "/") == once
    place = canonical_place(written, str(here))
    assert canonical_place(place, "/") == place
