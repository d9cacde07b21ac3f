"""Previews that were made once, in the user's cache folder, readable by the user alone and bounded in bytes."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

MOST_BYTES: Final = 512 * 2**20
_CHECKED_EVERY: Final = 16 * 2**20


class PreviewCache:
    """Small files by a key; the ones not used for longest go when there are more bytes than `most_bytes`."""

    def __init__(self, folder: Path | None = None, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder or _default_folder()
        self._most, self._unchecked = most_bytes, _CHECKED_EVERY
        self._lock = threading.Lock()

    def get(self, *key: str) -> bytes | None:
        """What was kept under a key."""
        path = self._path(key)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return content

    def put(self, content: bytes, *key: str) -> None:
        """Keep it, if the disk has room."""
        path = self._path(key)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
                file.write(content)
            os.replace(file.name, path)
        with self._lock:
            self._unchecked += len(content)
            due = self._unchecked >= _CHECKED_EVERY
            self._unchecked = 0 if due else self._unchecked
        if due:
            self._shrink()

    def _shrink(self) -> None:
        held: list[tuple[float, int, Path]] = []
        for path in self._folder.glob("*/*"):
            with suppress(OSError):
                about = path.stat()
                held.append((about.st_mtime, about.st_size, path))
        total = sum(size for _, size, _ in held)
        for _, size, path in sorted(held):
            if total <= self._most:
                break
            with suppress(OSError):
                path.unlink()
            total -= size

    def _path(self, key: tuple[str, ...]) -> Path:
        digest = hashlib.sha256("\0".join(key).encode("utf-8", "backslashreplace")).hexdigest()
        return self._folder / digest[:2] / digest[2:]


def _default_folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sightflow" / "previews"
