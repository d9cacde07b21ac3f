"""Files of an export have names that every file system takes, and takes for different ones."""

import json
import re
import unicodedata
from pathlib import Path, PurePosixPath

import yaml
from hypothesis import given
from hypothesis import strategies as st

from sightflow.blocks.exports.export import export_format
from sightflow.blocks.exports.file_names import FileNames, common_folder
from tests.blocks.exports.random_rows import KEYS, write
from tests.schemas.tables.test_catalog import region, row

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


def test_ultralytics_finds_the_labels_of_every_image(tmp_path: Path) -> None:
    """It looks where the last `/images/` of a path becomes `/labels/` (img2label_paths of ultralytics.data.utils)."""
    keys = ["train/images/1.jpg", "val/images/1.jpg", "val/images_/1.jpg", "images/images/a.jpg", "a.jpg",
            "a.txt/b.jpg", "a.TXT/a.txt/b.png", "a.txt_/b.jpg", "train/Images/1.jpg"]  # fmt: skip
    rows = [row(uri=f"s3://b/{key}", regions=[region(label=key)]) for key in sorted(keys)]
    write(rows, export_format("yolo"), tmp_path, "objects")
    names = yaml.safe_load((tmp_path / "data.yaml").read_text())["names"]
    lines = (tmp_path / "objects.jsonl").read_text().splitlines()
    assert len(lines) == len(keys)
    for each in map(json.loads, lines):
        image = f"{tmp_path}/images/{each['file']}"
        labels = "/labels/".join(image.rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"
        number, *_ = Path(labels).read_text().split()
        assert f"s3://b/{names[int(number)]}" == each["uri"]
