"""The temporary folder of a Prefect server of our own; one whose processes were killed is removed by the next start."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "sightflow-prefect-"
_LOCK = "in-use"


@contextmanager
def server_folder() -> Iterator[tuple[Path, int]]:
    """Yield a folder that only this user can read, and the descriptor of its lock, for a process that uses it too.

    The folder is in use as long as any process has that descriptor open.
    """
    remove_stale_folders()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    descriptor = os.open(folder / f"{_LOCK}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL, mode=0o600)
    try:
        # Locked before it has its name: nobody finds a folder of this name whose lock is free, and removes it.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        (folder / f"{_LOCK}.new").rename(folder / _LOCK)
        yield folder, descriptor
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def remove_stale_folders() -> None:
    """Remove the folders of this user's servers that no process uses any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody else's, no folder of ours, or gone meanwhile
            about = folder.lstat()
            if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid():
                _remove_unused(folder)


def _remove_unused(folder: Path) -> None:
    """Raises OSError if the folder has no lock or is in use."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
