"""An address of the web has one form, however a list spells it, and no key in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightflow.blocks.store.patterns import source_filter
from sightflow.schemas.object_uri import ObjectUri, Scheme
from sightflow.schemas.source_pattern import canonical_object, canonical_source
from sightflow.schemas.web.address import canonical_address

ONE_FORM = {
    "https://H.Example": "https://h.example/",
    "https://h.example:443/a": "https://h.example/a",
    "https://h.example:8443/a": "https://h.example:8443/a",
    "https://bücher.example/ä b.png?q=ü x": "https://xn--bcher-kva.example/%C3%A4%20b.png?q=%C3%BC%20x",
    "https://h.example/a/./b/../c/": "https://h.example/a/c/",
    "https://h.example/../a/%2e%2E/..": "https://h.example/",
    "https://h.example/50%/%2f%7e~#part": "https://h.example/50%25/%2F%7E~",
    "https://h.example/a//b?x=a/../b#c": "https://h.example/a//b?x=a/../b",
    "https://[2001:DB8::1]:443/a": "https://[2001:db8::1]/a",
}


@pytest.mark.parametrize("given", ONE_FORM)
def test_an_address_has_one_form(given: str) -> None:
    assert canonical_object(f" {given}\t") == ONE_FORM[given]


@given(st.text(max_size=60), st.sampled_from(["", "h.example/", "h.example:44/a?"]))
def test_to_make_it_canonical_again_changes_nothing(text: str, root: str) -> None:
    try:
        once = canonical_address(f"https://{root}{text}")
    except ValueError:
        return
    assert canonical_address(once) == once and once.isascii() and " " not in once
    assert str(ObjectUri.parse(once)) == once and ObjectUri.parse(once).scheme is Scheme.HTTPS


@pytest.mark.parametrize(
    "text",
    ["https://", "https:///a", "https://me@h.example/a", "https://me:pw@h.example/a", "https://h.example:x/a",
     "https://h.example/\\evil", "https://h ost/a", "https://h.example/a\nb", "https://h/a?token=abcdefghijk",
     "https://h/a?X-Amz-Signature=abcdefghijk", "https://h/a?sig=abcdefghijk", "https://h/\ud800", "https://[::1/a",
     "https://h/" + "a" * 9000, "https://-/a", "https://h.example:99999/"],
)  # fmt: skip
def test_what_is_no_address_or_holds_a_key_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        canonical_object(text)


def test_a_pattern_matches_addresses_in_their_one_form() -> None:
    pattern = canonical_source("https://H.example:443/ä {a,b}/**/*.[jp]*")
    assert canonical_source(pattern) == pattern
    matches = source_filter([pattern])
    for text in ("https://h.example/ä a/x/y.png", "https://h.example/%C3%A4%20b/y.jpg"):
        assert matches(canonical_object(text))
    assert not matches("https://h.example/%C3%A4%20c/y.jpg") and not matches("https://other.example/ä a/y.png")
    assert source_filter([canonical_source("https://h.example")])("https://h.example/a?b")
    with pytest.raises(ValueError, match="no address holds a #"):
        canonical_source("https://h.example/a#b")
