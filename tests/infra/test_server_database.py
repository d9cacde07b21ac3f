"""The database that our own Prefect server begins with."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from sightflow.infra.server_database import begin_with_template, leave_template, template_path
from sightflow.infra.server_process import PrefectServer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and so no template."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    """A small database with Alembic's mark."""
    path = tmp_path / "migrated.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('1')")
        connection.execute("CREATE TABLE filler AS SELECT hex(randomblob(20000)) AS text")
    return path


def revision(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_a_running_server_leaves_one_that_the_next_begins_with(prefect_server: PrefectServer, tmp_path: Path) -> None:
    leave_template(prefect_server.database)
    assert template_path().stat().st_mode & 0o077 == 0
    assert begin_with_template(tmp_path / "prefect.db")
    assert revision(tmp_path / "prefect.db") == revision(prefect_server.database)
    assert [path.name for path in template_path().parent.iterdir()] == [template_path().name]


def test_a_database_that_is_there_is_left_as_it_is(migrated: Path, tmp_path: Path) -> None:
    leave_template(migrated)
    own = tmp_path / "prefect.db"
    own.write_bytes(b"own")
    assert not begin_with_template(own) and own.read_bytes() == b"own"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no database"),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096)),
        lambda path: sqlite3.connect(path).executescript("DELETE FROM alembic_version;").close(),
        lambda path: sqlite3.connect(path).executescript("DROP TABLE alembic_version;").close(),
    ],
    ids=["empty", "text", "cut off", "overwritten", "no revision", "not migrated"],
)
def test_a_damaged_one_is_made_anew(damage: Callable[[Path], object], migrated: Path, tmp_path: Path) -> None:
    leave_template(migrated)
    damage(template_path())
    database = tmp_path / "prefect.db"
    assert not begin_with_template(database)
    assert not database.exists() and not template_path().exists()
    leave_template(migrated)
    assert begin_with_template(database) and revision(database) == "1"


def test_many_at_once_each_get_a_whole_one(migrated: Path, tmp_path: Path) -> None:
    def start(k: int) -> bool:
        database = tmp_path / f"{k}.db"
        begun = begin_with_template(database)
        if not begun:
            leave_template(migrated)
        return not begun or revision(database) == "1"

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(start, range(64)))
    assert begin_with_template(tmp_path / "last.db")


def test_a_cache_that_cannot_be_written_costs_nothing_else(cache: Path, migrated: Path, tmp_path: Path) -> None:
    cache.write_text("a file, where a folder should be")
    leave_template(migrated)
    assert not begin_with_template(tmp_path / "prefect.db")
