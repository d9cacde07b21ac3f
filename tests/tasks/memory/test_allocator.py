"""What malloc keeps, from the command line's start: large blocks go back to the system, threads share two arenas."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

LOOK = """
import contextlib, ctypes, json, os, sys, threading

way, told = sys.argv[1:]

def settle():
    import sightflow.infra.cli as command_line
    sys.argv = ["sightflow", "--version"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
        command_line.main()

if way == "settled":
    settle()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
        ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

libc.mallinfo2.restype = Mallinfo2
MIB = 2**20
libc.free(libc.malloc(20 * MIB))  # by itself malloc now keeps all up to so many
before = libc.mallinfo2().hblks
libc.malloc(5 * MIB)
mapped = libc.mallinfo2().hblks - before
gate = threading.Barrier(12)

def take():
    libc.malloc(1000)
    gate.wait()

threads = [threading.Thread(target=take) for _ in range(12)]
for each in threads: each.start()
for each in threads: each.join()
libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p] * 2
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
file = libc.fopen(told.encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
print(json.dumps([mapped, open(told).read().count("<heap nr=")]))
"""


def look(way: str, into: Any, **environment: str) -> tuple[int, int]:
    """How many of one large block were given by the system itself, and how many arenas twelve threads have."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", LOOK, way, str(into / "malloc.xml")]
    done = subprocess.run(command, capture_output=True, text=True, env=others | environment, timeout=120, check=True)
    mapped, arenas = json.loads(done.stdout)
    return mapped, arenas


@pytest.mark.skipif(
    sys.platform != "linux" or not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"), reason="needs glibc"
)
def test_the_command_line_gives_large_blocks_back_and_its_threads_share_arenas(tmp_path: Any) -> None:
    assert look("settled", tmp_path) == (1, 2)
    mapped, arenas = look("as it is", tmp_path)
    assert mapped == 0 and arenas > 2, "else this test sees nothing"
    assert look("settled", tmp_path, MALLOC_ARENA_MAX="3") == (0, 3), "what the user has set stays"
