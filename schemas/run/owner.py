"""Which process does something that others wait for, and whether it is still there."""

from __future__ import annotations

import os
import socket
from functools import cache


def this_process() -> str:
    """The name of this process, as no other has ever been called: `MACHINE PID START`."""
    return f"{_machine()} {os.getpid()} {_started(os.getpid())}"


def has_ended(owner: str) -> bool | None:
    """Whether a process has ended; None where that cannot be told from here: it was on another machine."""
    machine, pid, started = owner.rsplit(" ", 2) if owner.count(" ") >= 2 else ("", "", "")
    if machine != _machine():
        return None
    return not pid.isdigit() or _started(int(pid)) != started


@cache
def _machine() -> str:
    """The name of this machine and, within it, what numbers its processes: containers have numbers of their own."""
    try:
        numbered_by = os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        numbered_by = ""
    return f"{socket.gethostname()}/{numbered_by}"


def _started(pid: int) -> str:
    """When a process began, as far as it tells two of one number apart; empty if there is none."""
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return ""
