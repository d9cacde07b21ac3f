"""Files of an export have names that every file system takes, and takes for different ones."""

import re
import unicodedata
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from sightflow.blocks.exports.file_names import FileNames, common_folder
from tests.blocks.exports.random_rows import KEYS

DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(10))}


def folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


@given(st.sets(KEYS, min_size=1, max_size=12))
def test_names_are_safe_and_differ_on_every_file_system_also_without_suffix(keys: set[str]) -> None:
    uris = sorted(f"s3://b/{key}" for key in keys)
    names = FileNames(common_folder(uris[0], uris[-1]))
    given_names = [names.name(uri) for uri in uris]
    stems, folders = set[str](), set[str]()
    for name in given_names:
        parts = name.split("/")
        assert 0 < len(name.encode()) <= 200
        for part in parts:
            assert part and not re.search(r'[\x00-\x1f<>:"\\|?*]', part) and part.isprintable()
            assert part[0] != "." and part[-1] not in ". " and part.partition(".")[0].lower() not in DEVICES
            assert len(part.encode()) <= 255
        stem = folded(str(PurePosixPath(name).with_suffix("")))
        assert stem not in stems
        stems.add(stem)
        folders |= {folded(str(parent)) for parent in PurePosixPath(name).parents}
    assert not folders & {folded(name) for name in given_names}


def test_a_plain_key_keeps_its_name_below_what_all_have_in_common() -> None:
    uris = ["s3://b/photos/2024/a cat.jpg", "s3://b/photos/2024/é.jpg", "s3://b/photos/2025/a.b.jpg"]
    names = FileNames(common_folder(uris[0], uris[-1]))
    assert [names.name(uri) for uri in uris] == ["2024/a cat.jpg", "2024/é.jpg", "2025/a.b.jpg"]


def test_a_name_is_the_same_in_every_export_of_the_same_objects() -> None:
    uris = ["s3://b/A.jpg", "s3://b/a.jpg", "s3://b/a.png"]
    first, second = ([FileNames("s3://b/").name(uri) for uri in uris] for _ in range(2))
    assert first == second
