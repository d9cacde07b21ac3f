"""How many arenas glibc's malloc keeps: by default eight for each core, each of which keeps what its threads freed."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

_M_ARENA_MAX: Final = -8  # of malloc.h
_ARENAS: Final = 2  # one for the main thread's, one for all the others': a third costs memory and gained no time


def limit_arenas() -> bool:
    """Let the threads of this process share their memory: an image that one thread has decoded and another let go is
    the next one's, whichever thread decodes it. Return whether that was set.

    Without glibc (musl, macOS), or where MALLOC_ARENA_MAX or GLIBC_TUNABLES say what the user wants, nothing is done.
    https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
    """
    asked = "MALLOC_ARENA_MAX" in os.environ or "arena_max" in os.environ.get("GLIBC_TUNABLES", "")
    if asked or sys.platform != "linux":
        return False
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return False
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS))
    except (ValueError, OSError, AttributeError):  # another C library
        return False
