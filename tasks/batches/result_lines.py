"""The lines of files of results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

_LINE_BYTES = 16 * 2**20  # of a result: several times what the longest reply of any model takes


def lines_of(files: Sequence[Path]) -> Iterator[bytes]:
    """The lines of some files but empty ones; one that is longer than any result is passed over, and is `b""`."""
    for path in files:
        with path.open("rb") as file:
            while line := file.readline(_LINE_BYTES):
                if len(line) == _LINE_BYTES and not line.endswith(b"\n"):
                    while (more := file.readline(_LINE_BYTES)) and not more.endswith(b"\n"):
                        pass
                    yield b""
                elif line.strip():
                    yield line
