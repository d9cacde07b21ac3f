"""The device that weights are loaded onto: which it is, what it is called, what memory it has left."""

from __future__ import annotations

import math
from pathlib import Path

_GIB = 2**30


def resolve_device(device: str) -> str:
    """The device that a setting stands for; `auto`: the GPU where there is one, else the CPU."""
    if device != "auto":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def free_memory(device: str) -> float | None:
    """GiB free on a device, or None where nobody can say."""
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.mem_get_info(torch.device(device))[0]) / _GIB
    if device.startswith("cpu"):
        import psutil

        return min(float(psutil.virtual_memory().available), _cgroup_headroom()) / _GIB
    return None


def device_name(device: str) -> str:
    """What a device is called, with its memory: what holds on one of a kind holds on the next."""
    if not device.startswith("cuda"):
        return device
    import torch

    facts = torch.cuda.get_device_properties(torch.device(device))
    return f"{facts.name} {facts.total_memory / _GIB:.0f} GiB"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the host ran out of memory."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in str(error).lower()


def is_device_lost(error: BaseException) -> bool:
    """Whether an error of CUDA has ended what this process has on the device: all later calls fail with it
    (https://docs.nvidia.com/cuda/cuda-runtime-api, errors that leave the process in an inconsistent state).
    """
    import torch

    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def _cgroup_headroom() -> float:
    """Bytes until the limit of the control group (version 2) this process runs in; the file cache can be dropped."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        figures = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - (used - int(figures["inactive_file"]))
    except (OSError, ValueError, KeyError):  # none, no limit, or another version
        return math.inf
