"""How much memory this process may take, and what of it media and rows are given: `policy.memory`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from sightflow.schemas.failure import SpecError
from sightflow.schemas.policy import Policy
from sightflow.schemas.spec import EnrichmentSpec

_MOST_BY_DEFAULT: Final = 4 * 2**30  # as much as the largest image that `policy.limits` lets in needs, twice over
_ROOT: Final = Path("/")


@dataclass(frozen=True)
class MemoryBudget:
    """The bytes that a process may hold of media and rows, and its parts: each stage waits for its own part alone, so
    that none waits for one before it.
    """

    total: int

    @property
    def fetched(self) -> int:
        """For images as they were fetched, until they are decoded: three eighths."""
        return self.total * 3 // 8

    @property
    def pixels(self) -> int:
        """For what is being decoded, and decoded images and frames until the model has answered: a half."""
        return self.total // 2

    @property
    def rows(self) -> int:
        """For rows that wait for their commit: an eighth."""
        return self.total // 8


def memory_budget(policy: Policy, limit: int | None = None) -> MemoryBudget:
    """The budget of this process, or of one that may take `limit` bytes: what the policy says, but no more than there
    is; unset, half of what there is, and 4 GiB at most.
    """
    limit = limit or memory_limit()
    return MemoryBudget(min(limit // 2, _MOST_BY_DEFAULT) if policy.memory is None else min(policy.memory, limit))


def check_memory(spec: EnrichmentSpec) -> None:
    """Raise SpecError if the policy asks for more memory than this process may take."""
    asked, limit = spec.policy.memory, memory_limit()
    if asked is not None and asked > limit:
        problem = (
            f"{in_gib(asked)} is more than the {in_gib(limit)} that this process may take; write less, or leave it out"
        )
        raise SpecError(spec.explain(("policy", "memory"), problem))


def memory_limit(root: Path = _ROOT) -> int:
    """Bytes that this process may take: the least of the machine's memory, the limits of its control groups (versions
    1 and 2) and of those above them, and that of the Dask worker that it is, if it is one.

    `root`: where `proc` and `sys` lie. https://docs.kernel.org/admin-guide/cgroup-v2.html, cgroup-v1/memory.html
    """
    return min([int(psutil.virtual_memory().total), *_of_groups(root), *_of_dask_worker()])


def in_gib(size: int) -> str:
    """A size as it is told to a user, e.g. `1.5 GiB`."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def _of_groups(root: Path) -> list[int]:
    """The limits of the control groups of this process that can be seen from here.

    A line of /proc/self/cgroup is `0::/path` of version 2, `5:memory:/path` of version 1. In a container the path may
    be the host's, while the container's own group is mounted at the top: that one is looked at in any case.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return []
    found = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        mounts: tuple[str, ...] = ()
        if line.startswith("0::"):
            mounts, name = ("sys/fs/cgroup", "sys/fs/cgroup/unified"), "memory.max"
        elif "memory" in controllers.split(","):
            mounts, name = ("sys/fs/cgroup/memory",), "memory.limit_in_bytes"
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for mount in mounts:
            groups = [root.joinpath(mount, *parts[:count]) for count in range(len(parts) + 1)]
            found += [limit for group in groups if (limit := _limit_in(group / name))]
    return found


def _limit_in(file: Path) -> int | None:
    """The number of bytes in a file; None if it is not there or says `max`."""
    try:
        return int(file.read_text()) or None
    except (OSError, ValueError):
        return None


def _of_dask_worker() -> list[int]:
    if "distributed.worker" not in sys.modules:
        return []
    from distributed.worker import Worker

    limits = [worker.memory_manager.memory_limit for worker in list(Worker._instances)]
    return [limit for limit in limits if limit]
