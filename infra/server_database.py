"""The database that a Prefect server of our own begins with: a copy of one that Prefect has migrated before.

Prefect runs hundreds of migrations on an empty database, at every start. The first server of a version leaves its
database as the template of the next ones: as it is when it first answers, with nothing in it but what a start writes.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

_logger = logging.getLogger(__name__)


def template_path() -> Path:
    """Where the template of the installed version of Prefect is kept, there or not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sightflow" / f"prefect-server-{version('prefect')}.db"


def begin_with_template(database: Path) -> bool:
    """Make `database`, if it is not there, a copy of the template; return whether it is one.

    A template that is damaged is removed, for the next server to leave another.
    """
    template = template_path()
    if database.exists() or not template.exists():
        return False
    try:
        shutil.copyfile(template, database)  # checked is what will be used: another process may replace the template
        database.chmod(0o600)
        if _is_whole(database):
            return True
        template.unlink(missing_ok=True)
    except OSError as error:
        _logger.debug("the template %s cannot be used: %s", template, error)
    database.unlink(missing_ok=True)
    return False


def leave_template(database: Path) -> None:
    """Keep the database of a server that has just begun to answer, and was asked for nothing yet, as the template.

    Another process may do the same at the same time: each writes a file of its own, and the last one stays.
    """
    template = template_path()
    if template.exists():
        return
    try:
        template.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=template.parent) as folder:
            copy = Path(folder, template.name)
            copy.touch(mode=0o600)
            with closing(_read_only(database)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
            if _is_whole(copy):
                copy.replace(template)
    except (OSError, sqlite3.Error) as error:  # the next server is as slow as this one
        _logger.debug("no template is left in %s: %s", template, error)


def _is_whole(database: Path) -> bool:
    """Whether a file is a sound SQLite database that Alembic has migrated."""
    try:
        with closing(_read_only(database)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            return bool(found == "ok" and connection.execute("SELECT version_num FROM alembic_version").fetchone())
    except sqlite3.Error:
        return False


def _read_only(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)
