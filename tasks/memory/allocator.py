"""What glibc's malloc keeps of what was freed: by default in eight arenas for each core, and of blocks up to 32 MiB."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h
_ARENAS: Final = 2  # one for the main thread, one for all the others: more of them cost memory and gained no time
_LARGE: Final = 4 * 2**20
"""Bytes of a block that goes back to the system when it is freed: an image of a megapixel. Most tensors of a CPU are
smaller, and are faster where the process keeps their memory: from a quarter of that on a run takes longer."""


def keep_little() -> bool:
    """Let the threads of this process share their memory: what one of them has freed is the next one's, whichever it
    is; and give large images back to the system. Return whether that was set.

    Without glibc (musl, macOS), or where its MALLOC_ variables or GLIBC_TUNABLES say what the user wants, nothing is
    done.
    https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
    """
    asked = [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]
    if asked or sys.platform != "linux":
        return False
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return False
        mallopt = ctypes.CDLL(None).mallopt
    except (ValueError, OSError, AttributeError):  # another C library
        return False
    # A threshold that is set no longer adapts, and neither does the other; glibc would keep them as one to two.
    settings = {_M_ARENA_MAX: _ARENAS, _M_MMAP_THRESHOLD: _LARGE, _M_TRIM_THRESHOLD: 2 * _LARGE}
    return all(mallopt(*setting) for setting in settings.items())
