"""Temporary folders that go with the processes that use them, also where these are killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_PREFIX: Final = "sightflow-"
_LOCK: Final = "in-use"


class TemporaryFolder:
    """A folder that only this user can read. It is removed at the end of its block, by `remove`, or with this object.

    It is in use as long as any process has its `lock` (a file descriptor) open. What is in use no more is removed when
    the next folder is made, for whatever purpose. `purpose` becomes part of its name.
    """

    def __init__(self, purpose: str) -> None:
        _remove_stale_folders()
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{purpose}-"))
        new = self.path / f"{_LOCK}.new"
        self.lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode=0o600)
        # Locked before it has its name: nobody finds a folder of ours whose lock is free, and removes it.
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        new.rename(self.path / _LOCK)
        self.remove = weakref.finalize(self, _remove, self.path, self.lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


def _remove_stale_folders() -> None:
    """Remove the folders of this user that no process uses any more."""
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


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        os.close(lock)
