"""A file that is written in parts, perhaps several times, and hashed as it is."""

from __future__ import annotations

import hashlib
from typing import BinaryIO


class HashedFile:
    """What is written to an open file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def restart(self) -> None:
        """Take back what was written."""
        self._digest = hashlib.sha256()
        self._file.seek(0)
        self._file.truncate()

    def append(self, part: bytes) -> None:
        self._digest.update(part)
        self._file.write(part)

    def sha256(self) -> str:
        """Of all that is in the file, hexadecimal."""
        return self._digest.hexdigest()
