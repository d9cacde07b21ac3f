"""The folders show the architecture: few files in each, each file about one thing, no name that says nothing."""

from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("schemas", "blocks", "tasks", "flows", "infra", "benchmarks", "tests")
MOST_FILES = 15
MOST_LINES = 350
LONGER: dict[str, str] = {}
"""Files that may be longer, and why."""
FULLER: dict[str, str] = {
    "tests/e2e": "a file a promise to the user; they share fixtures and servers",
}
"""Folders that may hold more files, and why."""
SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base", "core"}


def sources() -> list[Path]:
    return [
        file for folder in CODE for file in sorted((ROOT / folder).rglob("*.py")) if ".environments" not in file.parts
    ]


def named(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def test_the_folders_are_there() -> None:
    assert all((ROOT / folder).is_dir() for folder in CODE)
    assert len(sources()) > 200


def test_a_folder_holds_no_more_than_fifteen_files() -> None:
    counts = Counter(named(file.parent) for file in sources() if file.name != "__init__.py")
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES and folder not in FULLER} == {}
    assert all(counts[folder] > MOST_FILES for folder in FULLER), "an exception that is no longer needed"


def test_a_file_is_no_longer_than_350_lines() -> None:
    lengths = {named(file): len(file.read_text().splitlines()) for file in sources()}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES and name not in LONGER} == {}
    assert all(lengths[name] > MOST_LINES for name in LONGER), "an exception that is no longer needed"


@pytest.mark.parametrize("file", sources(), ids=named)
def test_a_file_has_a_name_that_says_what_it_is_about(file: Path) -> None:
    assert file.stem not in SAYS_NOTHING
    assert not any(part in SAYS_NOTHING for part in file.relative_to(ROOT).parts)


def test_what_is_imported_is_one_package() -> None:
    """`src/sightflow` holds its own front door and a link to each folder, and nothing else."""
    package = ROOT / "src" / "sightflow"
    links = {entry.name: entry.resolve() for entry in package.iterdir() if entry.is_symlink()}
    assert links == {name: ROOT / name for name in ("schemas", "blocks", "tasks", "flows", "infra")}
    own = {entry.name for entry in package.iterdir() if not entry.is_symlink() and entry.name != "__pycache__"}
    assert own == {"__init__.py", "py.typed"}
