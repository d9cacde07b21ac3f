"""A catalog is data: media are read where the user, a spec or the user's own endpoints say so."""

import pytest

from sightflow.blocks.store.media_places import MediaPlaces
from sightflow.schemas.failure import SpecError

LOCAL, BUCKET = "file:///home/ann/catalog", "s3://shop/catalog"


@pytest.mark.parametrize(
    ("catalog", "uri"),
    [
        (BUCKET, "s3://other/a.jpg"),
        (LOCAL, "s3://shop/a.jpg"),
        (LOCAL, "gs://shop/a.jpg"),
        (BUCKET, "az://shop/a.jpg"),
        (LOCAL, "file:///home/ann/a.jpg"),
    ],
)
def test_objects_of_buckets_and_files_beside_a_local_catalog_are_read(catalog: str, uri: str) -> None:
    assert MediaPlaces(catalog).refused(uri) is None


@pytest.mark.parametrize(
    ("catalog", "uri", "place"),
    [
        (BUCKET, "file:///home/ann/.ssh/id_rsa", "file:///home/ann/.ssh"),
        (BUCKET, "https://evil.example/track.jpg?who=ann", "https://evil.example"),
        (LOCAL, "https://evil.example/a.jpg", "https://evil.example"),
        (LOCAL, "hf://datasets/evil/one/a.jpg", "hf://datasets/evil/one"),
    ],
)
def test_what_the_catalog_alone_names_is_not(catalog: str, uri: str, place: str) -> None:
    why = MediaPlaces(catalog).refused(uri)
    assert why and f"--media-from {place}," in why
    assert MediaPlaces.of(catalog, given=[place]).refused(uri) is None, "what it says to add is what it takes"


@pytest.mark.parametrize(
    ("source", "uri", "is_read"),
    [
        ("https://media.example/photos/*.jpg", "https://media.example/photos/a.jpg", True),
        ("https://media.example/photos/*.jpg", "https://media.example.evil/photos/a.jpg", False),
        ("https://media.example/photos/*.jpg", "https://media.example/photos/../admin", False),
        ("file:///photos/**", "file:///photos/2026/a.jpg", True),
        ("file:///photos/**", "file:///photos/../etc/passwd", False),
        ("file:///{photos,films}/**", "file:///films/a.mp4", True),
    ],
)
def test_the_source_of_a_spec_is_confirmed(source: str, uri: str, is_read: bool) -> None:
    assert (MediaPlaces.of(BUCKET, [source]).refused(uri) is None) is is_read


@pytest.mark.parametrize("uri", ["", "x", "javascript:alert(1)", "s3:///x", "http://x/a", "file:///a\0b", "\u202e"])
def test_what_is_no_address_is_not_read(uri: str) -> None:
    assert MediaPlaces(LOCAL).refused(uri)


def test_a_place_that_is_none_is_a_mistake() -> None:
    with pytest.raises(SpecError, match="--media-from"):
        MediaPlaces.of(LOCAL, given=["http://plain.example/"])
